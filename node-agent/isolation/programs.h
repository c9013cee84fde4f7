// The BPF programs on a group: loaded and attached, or found there. Any thread.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::isolation {

/// The maps of the programs of one group (layout.h says what they hold).
struct Maps {
  UniqueFd control;
  UniqueFd table;
};

/// Attaches every program to the group, beside those of others (BPF_F_ALLOW_MULTI); what an agent
/// that died left half done is taken off first. On failure none of ours is left on it.
Result<Maps> attach_programs(const std::filesystem::path& group);

/// The maps of the programs that attach_programs() put on the group. kNotFound also when it did
/// not come to its end.
Result<Maps> find_programs(const std::filesystem::path& group);

/// Loads the programs and drops them. kPermission, kUnsupported.
Status try_programs();

}  // namespace fermata::isolation
