#include "node-agent/pod/podinit/rank_table.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/signals.h"

namespace fermata::pod {
namespace {

constexpr int kNotFoundStatus = 127;
constexpr int kNotExecutableStatus = 126;

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

struct Start {
  const char* program;
  std::vector<char*> argv;
  std::vector<char*> shell_argv;  ///< for a script without "#!"
  std::vector<char*> environment;
  bool keeps_stdin;
  int streams;  ///< first of three; -1: podinit's
  const cpu_set_t* processors;
};

/// Between fork and exec: libpmix's threads are not here, so nothing may allocate or lock.
[[noreturn]] void become_rank(const Start& start) {
  setpgid(0, 0);
  if (start.processors != nullptr) sched_setaffinity(0, sizeof *start.processors, start.processors);
  if (start.streams >= 0) {
    for (int stream = 0; stream <= STDERR_FILENO; ++stream) {
      if (dup2(start.streams + stream, stream) < 0) _exit(kNotExecutableStatus);
    }
  } else if (!start.keeps_stdin) {
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0) _exit(kNotExecutableStatus);
  }
  for (int signo = 1; signo < NSIG; ++signo) {
    // What podinit was born to ignore the job ignores, too; SIGPIPE is its own choice.
    if (signo == SIGPIPE || !signal_is_ignored(signo)) signal(signo, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0);
  execve(start.program, start.argv.data(), start.environment.data());
  if (errno == ENOEXEC) {
    execve("/bin/sh", start.shell_argv.data(), start.environment.data());
  }
  const int err = errno;
  for (const char* text : {"fermata: ", start.program, ": ", strerrordesc_np(err), "\n"}) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) break;
  }
  _exit(err == ENOENT ? kNotFoundStatus : kNotExecutableStatus);
}

int shell_status(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

Status RankTable::start(uint32_t rank, const RankStart& what, int streams) {
  cpu_set_t processors;
  CPU_ZERO(&processors);
  for (const uint32_t processor : what.processors) {
    if (processor < CPU_SETSIZE) CPU_SET(processor, &processors);
  }
  Start start{what.program.c_str(),
              pointers(what.command),
              {},
              pointers(what.environment),
              rank == 0,
              streams,
              what.processors.empty() ? nullptr : &processors};
  static char shell[] = "sh";
  start.shell_argv = start.argv;
  start.shell_argv[0] = const_cast<char*>(what.program.c_str());
  start.shell_argv.insert(start.shell_argv.begin(), shell);
  const pid_t pid = fork();
  if (pid == 0) become_rank(start);
  if (pid < 0) return errno_status(errno, fmt::format("fork of rank {}", rank));
  // Both sides do it: whoever comes first, the group stands before a signal is sent to it.
  setpgid(pid, pid);
  ranks_[rank].pid = pid;
  return Status::ok();
}

std::optional<uint32_t> RankTable::ended(pid_t pid, int wait_status) {
  for (uint32_t rank = 0; rank < size(); ++rank) {
    Rank& entry = ranks_[rank];
    if (entry.pid != pid) continue;
    entry.pid = 0;
    entry.status = shell_status(wait_status);
    if (counting_ || culprit_ == rank) highest_ = std::max(highest_, entry.status);
    return rank;
  }
  return std::nullopt;
}

bool RankTable::left_without_finalize(uint32_t rank) const {
  return flags_[rank].connected && !flags_[rank].finalized;
}

bool RankTable::any_running() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.pid > 0; });
}

void RankTable::signal(uint32_t rank, int signo) const {
  const pid_t pid = ranks_[rank].pid;
  // The group is gone when the rank moved to another one (setsid): then the rank itself.
  if (pid > 0 && kill(-pid, signo) != 0) kill(pid, signo);
}

void RankTable::signal_all(int signo) const {
  for (uint32_t rank = 0; rank < size(); ++rank) signal(rank, signo);
}

void RankTable::stop_counting(std::optional<uint32_t> culprit) {
  counting_ = false;
  culprit_ = culprit;
}

}  // namespace fermata::pod
