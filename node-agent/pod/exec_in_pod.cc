// `fermata exec`: a command in a running pod, with the caller's streams. A go-between enters the
// namespaces; the command is born inside them as our child and joins the group as its last step
// before execve.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "common/signals.h"
#include "common/unique_fd.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/child_process.h"
#include "node-agent/pod/pod.h"
#include "node-agent/pod/program.h"

namespace fermata::pod {
namespace {

constexpr int kNamespaces =
    CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWTIME;
constexpr std::array kForwarded{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

/// Made before the fork: the children do not allocate.
struct Entry {
  UniqueFd pidfd;
  UniqueFd root;    ///< of the pod's PID 1
  UniqueFd folder;  ///< its working directory
  UniqueFd group_procs;
  UniqueFd report;
  const Credentials* user = nullptr;
  std::string program;
  std::vector<char*> argv;
  std::vector<char*> environment;
};

[[noreturn]] void run_command(const Entry& entry) {
  int report = entry.report.get();
  if (setsid() < 0) fail_child(report, "setsid in the pod");
  if (become_user(entry.user->uid, entry.user->gid, entry.user->groups) != 0) {
    fail_child(report, "becoming the user", entry.user->name.c_str());
  }
  if (fchdir(entry.folder.get()) != 0) fail_child(report, "entering the job's working directory");
  // The rights of who opened the file count (Linux 5.16 and its stable siblings), so this can be
  // the last step: a capture never meets a process that has not yet dropped to the user.
  if (write(entry.group_procs.get(), "0", 1) != 1) fail_child(report, "joining the pod's group");
  std::array<int, 4> fds{0, 1, 2, report};
  report = 3;
  if (keep_only(fds) != 0 || fcntl(report, F_SETFD, FD_CLOEXEC) != 0) {
    fail_child(report, "giving the command its streams");
  }
  reset_signals(Ignored::kKept);
  execve(entry.program.c_str(), entry.argv.data(), entry.environment.data());
  fail_child(report, entry.program.c_str());
}

[[noreturn]] void enter_pod(const Entry& entry) {
  const int report = entry.report.get();
  if (setns(entry.pidfd.get(), kNamespaces) != 0) {
    fail_child(report, "entering the pod's namespaces (setns with a pidfd: Linux 5.8 or later)");
  }
  // setns leaves us at the root of the mount namespace; the pod's may be a folder below it.
  if (fchdir(entry.root.get()) != 0 || chroot(".") != 0) {
    fail_child(report, "entering the pod's root folder");
  }
  const pid_t child = raw_fork(CLONE_PARENT);
  if (child == 0) run_command(entry);
  if (child < 0) fail_child(report, "fork in the pod");
  ChildReport born;
  born.pid = child;
  if (write(report, &born, sizeof born) < 0) _exit(1);
  _exit(0);
}

void wait_for(pid_t pid, int* status) {
  while (waitpid(pid, status, 0) < 0 && errno == EINTR) {
  }
}

/// Signals that would end us (none that we ignore) go to the command instead, while this lives.
class SignalForwarder {
 public:
  SignalForwarder() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signo : kForwarded) {
      if (!signal_is_ignored(signo)) sigaddset(&set, signo);
    }
    pthread_sigmask(SIG_BLOCK, &set, &before_);
    fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  SignalForwarder(const SignalForwarder&) = delete;
  SignalForwarder& operator=(const SignalForwarder&) = delete;
  ~SignalForwarder() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  /// Until `pid`, which `pidfd` is of, has ended.
  void forward_to(pid_t pid, int pidfd) const {
    std::array<pollfd, 2> sources{{{pidfd, POLLIN, 0}, {fd_.get(), POLLIN, 0}}};
    while ((sources[0].revents & POLLIN) == 0) {
      if (poll(sources.data(), sources.size(), -1) < 0) continue;
      signalfd_siginfo info{};
      while (read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        // The command leads a session and a group: all of its processes get it.
        kill(-pid, static_cast<int>(info.ssi_signo));
      }
    }
  }

 private:
  sigset_t before_{};
  UniqueFd fd_;
};

Result<UniqueFd> open_of_init(pid_t init, const char* name) {
  const std::string path = fmt::format("/proc/{}/{}", init, name);
  UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, path);
  return fd;
}

std::string link_target(const std::string& path) {
  std::error_code error;
  return std::filesystem::read_symlink(path, error).native();
}

std::vector<char*> pointers_of(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct Born {
  pid_t pid = -1;
  Status status;
};

Born collect(int fd) {
  Born born;
  for (;;) {
    ChildReport report;
    const ssize_t got = read(fd, &report, sizeof report);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof report)) break;
    report.what[sizeof report.what - 1] = '\0';
    if (report.pid > 0) {
      born.pid = report.pid;
    } else {
      born.status = status_of(report);
    }
  }
  if (born.pid < 0 && born.status)
    born.status = {Code::kGone, "the pod ended while it was entered"};
  return born;
}

}  // namespace

Result<int> exec_in_pod(pid_t init, const std::filesystem::path& group, const Credentials& user,
                        const std::vector<std::string>& command,
                        const std::vector<std::string>& environment) {
  if (command.empty()) return failure(Code::kUsage, "no command is given");
  Entry entry;
  entry.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, init, 0)));
  if (!entry.pidfd) return errno_failure(errno, fmt::format("the pod's PID 1, process {}", init));
  FERMATA_ASSIGN(const std::filesystem::path actual, group_of_process(init));
  if (actual != group) {
    return failure(Code::kGone,
                   fmt::format("process {} is not in the group {}", init, group.native()));
  }
  FERMATA_ASSIGN(entry.root, open_of_init(init, "root"));
  FERMATA_ASSIGN(entry.folder, open_of_init(init, "cwd"));
  FERMATA_ASSIGN(entry.group_procs, open_group_procs(group));
  FERMATA_ASSIGN(entry.program, find_program(command[0], environment,
                                             link_target(fmt::format("/proc/{}/cwd", init)), user));
  entry.user = &user;
  entry.argv = pointers_of(command);
  entry.environment = pointers_of(environment);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_failure(errno, "pipe");
  const UniqueFd reports(ends[0]);
  entry.report.reset(ends[1]);

  const SignalForwarder forwarder;
  const pid_t go_between = raw_fork(0);
  if (go_between == 0) enter_pod(entry);
  if (go_between < 0) return errno_failure(errno, "fork");
  entry.report.reset();
  Born born = collect(reports.get());
  wait_for(go_between, nullptr);
  if (!born.status) {
    if (born.pid > 0) wait_for(born.pid, nullptr);
    return Failure(std::move(born.status));
  }
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, born.pid, 0)));
  if (pidfd) forwarder.forward_to(born.pid, pidfd.get());
  int status = 0;
  wait_for(born.pid, &status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace fermata::pod
