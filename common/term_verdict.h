// How long Slurm's SIGTERM is held back at most until it is known what it is for. Agents and the
// coordinator have to agree on it.
#pragma once

#include <chrono>

namespace fermata {

/// Counted from the signal. slurmd sends SIGKILL a KillWait (30 s, where the site says nothing
/// else) after the SIGTERM of a job that ends: most of that is the ranks'.
inline constexpr std::chrono::seconds kTermVerdict{5};

}  // namespace fermata
