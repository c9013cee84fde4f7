#include "node-agent/pod/pod.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

#include "common/programs.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/end_of_process.h"
#include "node-agent/pod/model_process.h"
#include "node-agent/pod/pod_start.h"
#include "node-agent/pod/program.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

// How long processes may take to go after SIGKILL: one in an uninterruptible call (a hung file
// system) does not.
constexpr int kKillDeadlineMs = 20'000;

Result<UniqueFd> open_pidfd(pid_t pid) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) return errno_failure(errno, fmt::format("pidfd_open of process {}", pid));
  return fd;
}

Result<std::string> find_podinit() {
  if (const char* given = secure_getenv("FERMATA_PODINIT")) return std::string(given);
  FERMATA_ASSIGN(const fs::path path, find_own_program("fermata-podinit"));
  return path.native();
}

Status check_working_directory(const PodSpec& spec) {
  FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(spec.user));
  struct stat info {};
  const char* folder = spec.working_directory.c_str();
  if (stat(folder, &info) != 0) {
    return errno_status(errno, fmt::format("the working directory {}", spec.working_directory));
  }
  if (!S_ISDIR(info.st_mode)) {
    return errno_status(Code::kNotFound, ENOTDIR,
                        fmt::format("the working directory {}", spec.working_directory));
  }
  if (faccessat(AT_FDCWD, folder, X_OK, AT_EACCESS) != 0) {
    return errno_status(errno, fmt::format("the working directory {}", spec.working_directory));
  }
  return Status::ok();
}

/// Which ranks are in which pod, spelt out also for a step of one.
Status lay_out(const PodSpec& spec, PodinitConfig& config) {
  config.ranks = spec.ranks;
  config.pod = spec.pod;
  config.pod_of_rank = spec.pod_of_rank;
  config.hosts = spec.hosts;
  if (config.pod_of_rank.empty()) config.pod_of_rank.assign(spec.ranks, spec.pod);
  if (config.hosts.empty()) {
    std::array<char, HOST_NAME_MAX + 1> name{};
    gethostname(name.data(), name.size() - 1);
    config.hosts = {spec.host_name.empty() ? name.data() : spec.host_name};
  }
  if (config.pod_of_rank.size() != spec.ranks || spec.pod >= config.hosts.size()) {
    return {Code::kUsage,
            fmt::format("job {}: pod {} of {}, and pods for {} of {} ranks", to_string(spec.job),
                        spec.pod, config.hosts.size(), config.pod_of_rank.size(), spec.ranks)};
  }
  return Status::ok();
}

/// What each rank is, and its streams.
void take_ranks(const PodSpec& spec, PodinitStart& start) {
  for (const RankSpec& rank : spec.ranks_here) {
    start.config.starts.push_back({rank.program, rank.command, rank.environment, rank.processors});
    start.rank_stdio.insert(start.rank_stdio.end(), rank.stdio.begin(), rank.stdio.end());
  }
  if (spec.model != nullptr) start.config.umask = spec.model->umask();
}

/// The signals podinit hands on; another one would end PID 1 or be lost.
bool is_forwarded(int signo) {
  switch (signo) {
    case SIGINT:
    case SIGTERM:
    case SIGHUP:
    case SIGQUIT:
    case SIGUSR1:
    case SIGUSR2:
    case SIGCONT:
    case SIGTSTP:
    case SIGWINCH:
      return true;
    default:
      return false;
  }
}

/// Removes the group unless the pod came to be.
class GroupGuard {
 public:
  explicit GroupGuard(fs::path group) : group_(std::move(group)) {}
  GroupGuard(GroupGuard&& other) noexcept : group_(other.take()) {}
  GroupGuard& operator=(GroupGuard&&) = delete;
  GroupGuard(const GroupGuard&) = delete;
  GroupGuard& operator=(const GroupGuard&) = delete;
  ~GroupGuard() {
    // Nothing more can be done when this fails: the error that brought us here is the one to
    // report.
    if (!group_.empty()) (void)remove_group(group_, kKillDeadlineMs);
  }
  fs::path take() { return std::exchange(group_, {}); }
  const fs::path& group() const { return group_; }

 private:
  fs::path group_;
};

Result<GroupGuard> start_group(JobStep job, const GroupSpec& spec, const ModelProcess* model) {
  FERMATA_ASSIGN(fs::path made, make_group(spec.name.empty() ? to_string(job) : spec.name,
                                           model == nullptr ? std::nullopt : model->v2_group()));
  GroupGuard guard(std::move(made));
  if (spec.prepare) FERMATA_TRY_RESULT(spec.prepare(guard.group()));
  return guard;
}

}  // namespace

struct Pod::State {
  JobStep job;
  pid_t init = -1;
  UniqueFd pidfd;
  fs::path group;
  bool is_child = false;
  bool destroyed = false;
  std::optional<int> wait_status;

  /// Waits for our child; `options` as of waitid(2).
  void collect(int options) {
    if (wait_status) return;
    if (!is_child) {
      wait_status = wait_status_of(pidfd.get(), init);
      return;
    }
    siginfo_t info{};
    int result = 0;
    do {
      result = waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED | options);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
      is_child = false;  // somebody else waited for it, or SIGCHLD is ignored
    } else if (info.si_pid != 0) {
      wait_status = info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0)
                                               : W_EXITCODE(0, info.si_status);
    }
  }
};

Pod::Pod(std::unique_ptr<State> state) : state_(std::move(state)) {}
Pod::Pod(Pod&&) noexcept = default;
Pod& Pod::operator=(Pod&&) noexcept = default;
Pod::~Pod() = default;

JobStep Pod::job() const { return state_->job; }
pid_t Pod::init_pid() const { return state_->init; }
int Pod::init_pidfd() const { return state_->pidfd.get(); }
const fs::path& Pod::group() const { return state_->group; }

Result<Pod> Pod::launch(const PodSpec& spec) {
  const bool prepared = !spec.ranks_here.empty();
  if ((spec.command.empty() && !prepared) || spec.ranks == 0) {
    return failure(Code::kUsage, "a pod needs a command and at least one rank");
  }
  PodinitStart start;
  FERMATA_ASSIGN(start.podinit, find_podinit());
  if (prepared) {
    take_ranks(spec, start);
  } else {
    FERMATA_TRY_RESULT(check_working_directory(spec));
    FERMATA_ASSIGN(start.config.program, find_program(spec.command[0], spec.environment,
                                                      spec.working_directory, spec.user));
  }
  start.user = spec.user;
  start.working_directory = spec.working_directory;
  start.stdio = spec.stdio;
  start.config.job = spec.job;
  FERMATA_TRY_RESULT(lay_out(spec, start.config));
  start.config.command = spec.command;
  start.config.environment = spec.environment;

  FERMATA_ASSIGN(GroupGuard guard, start_group(spec.job, spec.group, spec.model));
  InitRequest request;
  request.group = guard.group();
  request.host_name =
      spec.host_name.empty() && !spec.hosts.empty() ? spec.hosts[spec.pod] : spec.host_name;
  request.start = &start;
  request.model = spec.model;
  auto state = std::make_unique<State>();
  FERMATA_ASSIGN(state->init, start_init(request));
  FERMATA_ASSIGN(state->pidfd, open_pidfd(state->init));
  state->job = spec.job;
  state->is_child = true;
  state->group = guard.take();
  return Pod(std::move(state));
}

Result<Pod> Pod::make_shell(JobStep job, const std::string& host_name,
                            const std::string& domain_name, const PodClocks& clocks,
                            const GroupSpec& group, const ModelProcess* model) {
  FERMATA_ASSIGN(GroupGuard guard, start_group(job, group, model));
  InitRequest request;
  request.group = guard.group();
  request.host_name = host_name;
  request.domain_name = domain_name;
  request.clocks = clocks;
  request.model = model;
  auto state = std::make_unique<State>();
  FERMATA_ASSIGN(state->init, start_init(request));
  FERMATA_ASSIGN(state->pidfd, open_pidfd(state->init));
  state->job = job;
  state->is_child = true;
  state->group = guard.take();
  return Pod(std::move(state));
}

Result<Pod> Pod::adopt(JobStep job, pid_t init, const fs::path& group) {
  auto state = std::make_unique<State>();
  FERMATA_ASSIGN(state->pidfd, open_pidfd(init));
  // The group tells a pod's PID 1 from a process that has got its number since.
  FERMATA_ASSIGN(const fs::path actual, group_of_process(init));
  if (actual != group) {
    return failure(Code::kGone, fmt::format("process {} is not of job {}: its group is {}, not {}",
                                            init, to_string(job), actual.native(), group.native()));
  }
  state->job = job;
  state->init = init;
  state->group = group;
  return Pod(std::move(state));
}

int send_signal(int init_pidfd, int signo) {
  if (!is_forwarded(signo) && signo != SIGKILL && signo != SIGSTOP) return EINVAL;
  return syscall(SYS_pidfd_send_signal, init_pidfd, signo, nullptr, 0) == 0 ? 0 : errno;
}

int send_rank_signal(int init_pidfd, uint32_t rank, int signo) {
  siginfo_t info{};
  info.si_signo = kRankSignal;
  info.si_code = SI_QUEUE;
  info.si_value.sival_int = encode_rank_signal(rank, signo);
  return syscall(SYS_pidfd_send_signal, init_pidfd, info.si_signo, &info, 0) == 0 ? 0 : errno;
}

Status Pod::signal(int signo) const {
  const int error = send_signal(state_->pidfd.get(), signo);
  if (error == 0) return Status::ok();
  if (error == EINVAL) {
    return {Code::kUsage, fmt::format("signal {} is none that podinit hands to the ranks", signo)};
  }
  return errno_status(error,
                      fmt::format("sending signal {} to job {}", signo, to_string(state_->job)));
}

std::optional<int> Pod::reap() {
  state_->collect(WNOHANG);
  return state_->wait_status;
}

Status Pod::destroy() {
  if (state_->destroyed) return Status::ok();
  // The kernel kills all of a PID namespace with its PID 1; the group also holds who is on the way
  // in.
  if (syscall(SYS_pidfd_send_signal, state_->pidfd.get(), SIGKILL, nullptr, 0) != 0 &&
      errno != ESRCH) {
    return errno_status(errno, fmt::format("ending job {}", to_string(state_->job)));
  }
  FERMATA_TRY(kill_group(state_->group));
  pollfd ended{state_->pidfd.get(), POLLIN, 0};
  while (poll(&ended, 1, kKillDeadlineMs) < 0 && errno == EINTR) {
  }
  state_->collect(WNOHANG);
  FERMATA_TRY(remove_group(state_->group, kKillDeadlineMs));
  state_->destroyed = true;
  return Status::ok();
}

}  // namespace fermata::pod
