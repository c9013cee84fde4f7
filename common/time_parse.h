// Durations as people and Slurm write them. Pure functions; any thread.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// Reads a duration in one of the forms of Slurm's --time ("minutes", "minutes:seconds",
/// "hours:minutes:seconds", "days-hours", "days-hours:minutes", "days-hours:minutes:seconds") or
/// with units, the largest first: "30m", "2h", "5s", "1d", "250ms", "1h30m", "0.5s". A bare number
/// is minutes. kUsage for anything else, and above 100 years.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

/// "1h30m", "250ms", "1m0.5s", "0s": parse_duration reads it back to the same value. A negative
/// duration gets a "-" in front, which parse_duration does not take.
std::string format_duration(std::chrono::milliseconds duration);

}  // namespace fermata
