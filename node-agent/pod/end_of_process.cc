#include "node-agent/pod/end_of_process.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace fermata::pod {
namespace {

/// struct pidfd_info of <linux/pidfd.h>, which Debian 12 does not have.
struct PidfdInfo {
  uint64_t mask = 0;
  uint64_t cgroup = 0;
  uint32_t ids[11] = {};
  int32_t exit_code = 0;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr uint64_t kInfoExit = 1U << 3;                         // PIDFD_INFO_EXIT
constexpr unsigned long kGetInfo = _IOWR(0xff, 11, PidfdInfo);  // PIDFD_GET_INFO

std::optional<int> told_by_pidfd(int pidfd) {
  PidfdInfo info;
  info.mask = kInfoExit;
  if (ioctl(pidfd, kGetInfo, &info) != 0 || (info.mask & kInfoExit) == 0) return std::nullopt;
  return info.exit_code;
}

std::optional<int> told_by_zombie(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(in, text);
  const size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(end_of_name + 1));
  std::string state;
  fields >> state;
  if (state != "Z" && state != "X") return std::nullopt;
  std::string field;
  constexpr int kExitCode = 52;
  for (int number = 4; number <= kExitCode; ++number) fields >> field;
  if (!fields) return std::nullopt;
  return std::stoi(field);
}

}  // namespace

std::optional<int> wait_status_of(int pidfd, pid_t pid) {
  pollfd ended{pidfd, POLLIN, 0};
  if (poll(&ended, 1, 0) != 1) return std::nullopt;
  if (const std::optional<int> told = told_by_pidfd(pidfd)) return told;
  const std::optional<int> zombie = told_by_zombie(pid);
  // Until it was waited for the number was its own. If that happened meanwhile, the pidfd knows.
  if (syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0) return zombie;
  return told_by_pidfd(pidfd);
}

}  // namespace fermata::pod
