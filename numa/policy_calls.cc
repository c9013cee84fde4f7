#include "numa/policy_calls.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>

namespace fermata::numa {
namespace {

constexpr int kModeFlags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING;
constexpr int kHighestMode = 6;  // MPOL_WEIGHTED_INTERLEAVE, since Linux 6.9

std::vector<uint64_t> mask_of(const Numbers& nodes) {
  std::vector<uint64_t> words;
  for (const int node : nodes) {
    const auto word = static_cast<size_t>(node) / 64;
    if (words.size() <= word) words.resize(word + 1);
    words[word] |= uint64_t{1} << (node % 64);
  }
  return words;
}

// The kernel takes one bit less than it is told of (get_mempolicy(2), BUGS).
uint64_t bits_of(const std::vector<uint64_t>& mask) {
  return mask.empty() ? 0 : mask.size() * 64 + 1;
}

}  // namespace

int plain_mode(int mode) { return mode & ~kModeFlags; }

bool is_known_mode(int mode) { return plain_mode(mode) >= 0 && plain_mode(mode) <= kHighestMode; }

PlannedCall mbind_call(int vpid, uint64_t start, uint64_t end, int mode, const Numbers& nodes) {
  PlannedCall call;
  call.vpid = vpid;
  call.vtid = vpid;
  call.number = SYS_mbind;
  call.nodemask = mask_of(nodes);
  call.mask_argument = call.nodemask.empty() ? -1 : 3;
  call.args = {start, end - start, static_cast<uint64_t>(mode), 0, bits_of(call.nodemask), 0};
  return call;
}

PlannedCall set_mempolicy_call(int vpid, int vtid, int mode, const Numbers& nodes) {
  PlannedCall call;
  call.vpid = vpid;
  call.vtid = vtid;
  call.number = SYS_set_mempolicy;
  call.nodemask = mask_of(nodes);
  call.mask_argument = call.nodemask.empty() ? -1 : 1;
  call.args = {static_cast<uint64_t>(mode), 0, bits_of(call.nodemask)};
  return call;
}

}  // namespace fermata::numa
