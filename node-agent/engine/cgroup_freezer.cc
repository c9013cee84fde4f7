#include "node-agent/engine/cgroup_freezer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <utility>

#include "common/file_util.h"
#include "common/unique_fd.h"

namespace fermata::engine {
namespace {

Result<bool> events_say_frozen(const std::filesystem::path& group) {
  FERMATA_ASSIGN(const std::string text, read_file(group / "cgroup.events"));
  return text.find("frozen 1") != std::string::npos;
}

}  // namespace

bool is_to_be_frozen(const std::filesystem::path& group) {
  const Result<std::string> text = read_file(group / "cgroup.freeze");
  return text && text->starts_with('1');
}

Status write_freeze(const std::filesystem::path& group, bool freeze) {
  const std::filesystem::path file = group / "cgroup.freeze";
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || ::write(fd.get(), freeze ? "1" : "0", 1) != 1) {
    return errno_status(errno, fmt::format("writing {}", file.native()));
  }
  return Status::ok();
}

Result<std::vector<pid_t>> group_processes(const std::filesystem::path& group) {
  FERMATA_ASSIGN(const std::string text, read_file(group / "cgroup.procs"));
  std::vector<pid_t> pids;
  std::istringstream stream(text);
  for (pid_t pid = 0; stream >> pid;) pids.push_back(pid);
  return pids;
}

CgroupFreezer::CgroupFreezer(std::filesystem::path group, bool was_frozen)
    : group_(std::move(group)), was_frozen_(was_frozen) {}

CgroupFreezer::CgroupFreezer(CgroupFreezer&& other) noexcept
    : group_(std::move(other.group_)),
      was_frozen_(other.was_frozen_),
      active_(std::exchange(other.active_, false)) {}

CgroupFreezer::~CgroupFreezer() {
  if (active_) static_cast<void>(write_freeze(group_, was_frozen_));
}

Result<CgroupFreezer> CgroupFreezer::freeze(const std::filesystem::path& group, int deadline_ms) {
  FERMATA_ASSIGN(const std::string before, read_file(group / "cgroup.freeze"));
  CgroupFreezer freezer(group, before.starts_with('1'));
  FERMATA_TRY_RESULT(write_freeze(group, true));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
  while (true) {
    FERMATA_ASSIGN(const bool frozen, events_say_frozen(group));
    if (frozen) return freezer;
    if (std::chrono::steady_clock::now() > deadline) {
      return failure(Code::kTimeout,
                     fmt::format("not every process of {} froze within {} ms (one is likely in an "
                                 "uninterruptible system call: file server gone?)",
                                 group.native(), deadline_ms));
    }
    const timespec pause{0, 50'000};
    ::nanosleep(&pause, nullptr);
  }
}

Status CgroupFreezer::thaw() {
  active_ = false;
  return write_freeze(group_, false);
}

}  // namespace fermata::engine
