#include "node-agent/thaw_guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>

#include "common/unique_fd.h"
#include "node-agent/engine/capture.h"

namespace fermata::node_agent {
namespace {

/// Stops the pod by ptrace and lets it go: interrupted calls are rewound on the way.
void let_go(const std::filesystem::path& group, pid_t init) {
  constexpr int kDeadlineMs = 2000;
  if (const auto pod = engine::FrozenPod::freeze(group, init, kDeadlineMs, /*left_frozen=*/true)) {
    // A failure has nobody to be told to.
    [[maybe_unused]] const Status resumed = (*pod)->resume();
  }
}

/// The guard's life. Until the agent dies only async-signal-safe calls: we are a fork of a process
/// that may have threads. After that memory may be allocated (the C library's fork sees to it), and
/// nothing be logged.
[[noreturn]] void guard(int agent_pidfd, int freeze_fd, const std::filesystem::path& group,
                        pid_t init, const std::function<void()>& then) {
  // Nothing of the agent may live on in the guard: not its locks, sockets or streams, nor its
  // terminal's signals.
  setsid();
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  const auto low = static_cast<unsigned>(std::min(agent_pidfd, freeze_fd));
  const auto high = static_cast<unsigned>(std::max(agent_pidfd, freeze_fd));
  if (low > 0) close_range(0, low - 1, 0);
  if (high > low + 1) close_range(low + 1, high - 1, 0);
  close_range(high + 1, UINT_MAX, 0);
  prctl(PR_SET_NAME, "fermata-guard");
  // Descriptors 0 to 2 are not for files of ours: somebody might print.
  for (int fd = 0; fd >= 0 && fd <= 2;) {
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd > 2) close(fd);
  }

  pollfd agent{agent_pidfd, POLLIN, 0};
  while (poll(&agent, 1, -1) < 0 && errno == EINTR) {
  }
  char state = '0';
  if (init > 0 && pread(freeze_fd, &state, 1, 0) == 1 && state == '1') let_go(group, init);
  // A failure has nobody to be told to: the group is gone, or never was frozen.
  [[maybe_unused]] const ssize_t written = write(freeze_fd, "0", 1);
  if (then) then();
  _exit(0);
}

}  // namespace

Result<ThawGuard> ThawGuard::start(const std::filesystem::path& group, pid_t init,
                                   const std::function<void()>& then) {
  const std::filesystem::path file = group / "cgroup.freeze";
  UniqueFd freeze(open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!freeze) return errno_failure(errno, file.string());
  UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self) return errno_failure(errno, "pidfd_open of the agent itself");
  const pid_t pid = fork();
  if (pid < 0) return errno_failure(errno, "fork of the thaw guard");
  if (pid == 0) guard(self.get(), freeze.get(), group, init, then);
  return ThawGuard(pid);
}

ThawGuard& ThawGuard::operator=(ThawGuard&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
  }
  return *this;
}

ThawGuard::~ThawGuard() { end(); }

void ThawGuard::dismiss() {
  if (pid_ >= 0) kill(pid_, SIGKILL);
}

void ThawGuard::end() {
  if (pid_ < 0) return;
  dismiss();
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

Status thaw_group(const std::filesystem::path& group, pid_t init) {
  const std::filesystem::path file = group / "cgroup.freeze";
  UniqueFd freeze(open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!freeze) return errno_status(errno, file.string());
  const auto is_frozen = [&] {
    char state = '0';
    return pread(freeze.get(), &state, 1, 0) == 1 && state == '1';
  };
  if (!is_frozen()) return {};
  if (init > 0) {
    for (int i = 0; i < 100 && is_frozen(); ++i) {
      const timespec pause{0, 10'000'000};
      nanosleep(&pause, nullptr);
    }
    if (!is_frozen()) return {};
    let_go(group, init);
  }
  if (pwrite(freeze.get(), "0", 1, 0) != 1) {
    return errno_status(errno, fmt::format("thawing {}", group.string()));
  }
  return {};
}

}  // namespace fermata::node_agent
