// System calls of memory policy, to be made in a thread of a pod. Pure functions; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "numa/machine.h"

namespace fermata::numa {

/// A system call to make in a thread of the pod. Where `mask_argument` >= 0, the words of
/// `nodemask` are written to memory of the process first and their address becomes that argument.
struct PlannedCall {
  int vpid = 0;
  int vtid = 0;
  long number = 0;
  std::array<uint64_t, 6> args{};
  int mask_argument = -1;
  std::vector<uint64_t> nodemask;
};

/// mbind(2) of [start, end), in any thread of process `vpid`.
PlannedCall mbind_call(int vpid, uint64_t start, uint64_t end, int mode, const Numbers& nodes);
/// set_mempolicy(2), in the thread itself.
PlannedCall set_mempolicy_call(int vpid, int vtid, int mode, const Numbers& nodes);

/// MPOL_* without its flags, which are MPOL_F_*.
int plain_mode(int mode);
/// Whether some kernel has this mode.
bool is_known_mode(int mode);

}  // namespace fermata::numa
