// cgroup.freeze of one cgroup v2 group (cgroup-v2.rst, "cgroup.freeze"). Any one thread.
#pragma once

#include <filesystem>
#include <vector>

#include "common/status.h"

namespace fermata::engine {

/// Host PIDs in the group (zombies are not listed).
Result<std::vector<pid_t>> group_processes(const std::filesystem::path& group);

/// Whether somebody wants the group frozen; not: or it cannot be told.
bool is_to_be_frozen(const std::filesystem::path& group);

/// Writes cgroup.freeze.
Status write_freeze(const std::filesystem::path& group, bool freeze);

/// Freezes a group; its destruction puts back what cgroup.freeze said before.
class CgroupFreezer {
 public:
  /// kTimeout, with the group as it was, when not every task is frozen within `deadline_ms`.
  static Result<CgroupFreezer> freeze(const std::filesystem::path& group, int deadline_ms);

  CgroupFreezer(CgroupFreezer&& other) noexcept;
  CgroupFreezer& operator=(CgroupFreezer&&) = delete;
  CgroupFreezer(const CgroupFreezer&) = delete;
  CgroupFreezer& operator=(const CgroupFreezer&) = delete;
  ~CgroupFreezer();

  /// Thaws for good, whatever it was before: calls can only be made in thawed tasks.
  Status thaw();
  /// Whether somebody had frozen the group before us (scontrol suspend).
  bool was_frozen() const { return was_frozen_; }

 private:
  CgroupFreezer(std::filesystem::path group, bool was_frozen);

  std::filesystem::path group_;
  bool was_frozen_ = false;
  bool active_ = true;
};

}  // namespace fermata::engine
