// /proc/PID/status and /proc/PID/stat as values. Any thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::engine {

/// /proc/PID/task/TID/status (proc(5)). IDs with the prefix v are those of the innermost PID
/// namespace.
struct ProcStatus {
  std::string name;
  char state = '?';
  int namespace_depth = 0;  ///< number of PIDs in NSpid
  int vtid = 0;
  int vpid = 0;
  int vgroup = 0;
  int vsession = 0;
  std::array<uint32_t, 4> uids{};  ///< real, effective, saved, file system
  std::array<uint32_t, 4> gids{};
  std::vector<uint32_t> groups;
  uint32_t umask = 0;
  uint64_t pending_thread = 0;
  uint64_t pending_process = 0;
  uint64_t ignored = 0;
  uint64_t caught = 0;
  uint64_t cap_inheritable = 0;
  uint64_t cap_permitted = 0;
  uint64_t cap_effective = 0;
  uint64_t cap_bounding = 0;
  uint64_t cap_ambient = 0;
  bool no_new_privileges = false;
  int seccomp = 0;
};

Result<ProcStatus> read_status(pid_t pid, pid_t tid);

/// Fields of /proc/PID/stat from the third on; field(n) counts from 1 as proc(5) does.
class ProcStat {
 public:
  static Result<ProcStat> read(pid_t pid);
  uint64_t field(size_t number) const;
  char state() const { return state_; }

 private:
  char state_ = '?';
  std::vector<uint64_t> fields_;
};

/// Host TIDs of a process.
Result<std::vector<pid_t>> threads_of(pid_t pid);
/// Host PIDs of the children of all threads of a process, zombies included.
Result<std::vector<pid_t>> children_of(pid_t pid);
/// Target of a link such as /proc/PID/exe.
Result<std::string> read_link(const std::string& path);

}  // namespace fermata::engine
