// What runs between a raw clone and execve: steps of a child that may share locks with threads
// which are not there. So nothing here allocates, and users are changed by raw system calls:
// glibc's setresuid(3) would signal the threads of the parent and wait for them (nptl(7)).
#pragma once

#include <sys/types.h>

#include <span>

#include "common/status.h"

namespace fermata::pod {

/// What a child tells its parent over a close-on-exec pipe; one write below PIPE_BUF, so never in
/// pieces.
struct ChildReport {
  pid_t pid = 0;  ///< of PID 1, sent by the go-between; 0: this is a failure
  Code code = Code::kOk;
  int error_number = 0;
  char what[240] = {};
};

/// Sends a failure. `detail` may be null.
void report_failure(int fd, Code code, int error_number, const char* what, const char* detail);
/// report_failure with the code that belongs to errno, then _exit(1).
[[noreturn]] void fail_child(int fd, const char* what, const char* detail = nullptr);
/// The Status in a ChildReport.
Status status_of(const ChildReport& report);

/// fork(2) without glibc's and other libraries' fork handlers. All signals are blocked in the
/// child, so that no handler of the parent's runs there. `flags` is 0 or CLONE_PARENT. -1 and errno
/// when it fails.
pid_t raw_fork(unsigned long flags);

/// What becomes of signals this process ignores.
enum class Ignored {
  kReset,
  kKept,  ///< but for SIGPIPE and SIGCHLD, which Fermata itself has set or needs
};
/// Every other signal back to its default action, and none blocked.
void reset_signals(Ignored ignored);

/// Becomes `uid`, `gid` with `groups`, raw. Without root no capability is left, inheritable and
/// ambient ones included. Returns 0 or -1 with errno.
int become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups);

/// Moves descriptors `from` to 0, 1, 2, ... in this order (-1: /dev/null) and closes every other
/// one. `from` may overlap the targets; it is changed. Returns 0 or -1 with errno.
int keep_only(std::span<int> from);

}  // namespace fermata::pod
