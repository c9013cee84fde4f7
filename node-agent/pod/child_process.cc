#include "node-agent/pod/child_process.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "common/signals.h"

namespace fermata::pod {
namespace {

// struct sigaction of the kernel: glibc's hides the signals that nptl uses (32, 33).
struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void* restorer;
  uint64_t mask;
};
constexpr int kLastSignal = 64;

void append(ChildReport& report, const char* text) {
  const size_t used = strnlen(report.what, sizeof report.what - 1);
  for (size_t i = 0; text[i] != '\0' && used + i + 1 < sizeof report.what; ++i) {
    report.what[used + i] = text[i];
  }
}

}  // namespace

void report_failure(int fd, Code code, int error_number, const char* what, const char* detail) {
  ChildReport report;
  report.code = code;
  report.error_number = error_number;
  append(report, what);
  if (detail != nullptr) {
    append(report, " ");
    append(report, detail);
  }
  // Nobody is left to tell when this fails: the parent then sees an end of file and a dead child.
  if (write(fd, &report, sizeof report) < 0) return;
}

void fail_child(int fd, const char* what, const char* detail) {
  const int err = errno;
  report_failure(fd, Code::kOk, err, what, detail);
  _exit(1);
}

Status status_of(const ChildReport& report) {
  if (report.code == Code::kOk) return errno_status(report.error_number, report.what);
  return errno_status(report.code, report.error_number, report.what);
}

pid_t raw_fork(unsigned long flags) {
  const uint64_t all = ~uint64_t{0};
  uint64_t before = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
  // x86-64 order: flags, stack (0: a copy of ours), parent_tid, child_tid, tls.
  const long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) return 0;
  const int err = errno;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, nullptr, sizeof before);
  errno = err;
  return static_cast<pid_t>(pid);
}

void reset_signals(Ignored ignored) {
  const KernelSigaction action{};
  for (int signo = 1; signo <= kLastSignal; ++signo) {
    const bool ours = signo == SIGPIPE || signo == SIGCHLD;
    if (ignored == Ignored::kKept && !ours && signal_is_ignored(signo)) continue;
    syscall(SYS_rt_sigaction, signo, &action, nullptr, sizeof action.mask);
  }
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
}

int become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups) {
  if (syscall(SYS_setgroups, groups.size(), groups.data()) != 0) return -1;
  if (syscall(SYS_setresgid, gid, gid, gid) != 0) return -1;
  if (syscall(SYS_setresuid, uid, uid, uid) != 0) return -1;
  if (uid == 0) return 0;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return -1;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  return static_cast<int>(syscall(SYS_capset, &header, none.data()));
}

int keep_only(std::span<int> from) {
  const int count = static_cast<int>(from.size());
  // First all out of the way of the targets.
  for (int& fd : from) {
    fd = fd < 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : fd;
    if (fd < 0) return -1;
    fd = fcntl(fd, F_DUPFD_CLOEXEC, count);
    if (fd < 0) return -1;
  }
  for (int target = 0; target < count; ++target) {
    if (dup2(from[static_cast<size_t>(target)], target) < 0) return -1;
    from[static_cast<size_t>(target)] = target;
  }
  return static_cast<int>(syscall(SYS_close_range, count, ~0U, 0));
}

}  // namespace fermata::pod
