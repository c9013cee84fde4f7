// fermata-podinit: PID 1 of a pod. Starts the ranks, is their PMIx server, hands signals to them,
// reaps whatever is orphaned in the pod, and ends with the ranks' exit status when no process is
// left.
//
// It is captured and rebuilt with the pod like any other process: everything it holds lies inside
// the pod (descriptors 0, 1 and 2 are the job's streams, and by them capture knows the streams),
// and nothing here depends on wall-clock time or on a peer outside.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>

#include "common/unique_fd.h"
#include "node-agent/pod/exchange_layout.h"
#include "node-agent/pod/podinit/folder_exchange.h"
#include "node-agent/pod/podinit/mailbox.h"
#include "node-agent/pod/podinit/pmix_server.h"
#include "node-agent/pod/podinit/rank_environment.h"
#include "node-agent/pod/podinit/rank_table.h"
#include "node-agent/pod/podinit_config.h"

namespace fermata::pod {
namespace {

using Clock = std::chrono::steady_clock;

// The pod's own /dev/shm: session files are captured with it and gone with it.
constexpr const char* kSessionFolder = "/dev/shm/.fermata";
// Between SIGTERM and SIGKILL when the job has to end.
constexpr std::chrono::seconds kGrace{5};
// For an agent that is started anew to hear how the last ranks ended: nobody else could tell it.
constexpr std::chrono::minutes kUntilHeard{1};
// podinit itself could not do its work (as env(1) has it).
constexpr int kFailedStatus = 125;
constexpr std::array kForwarded{SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGUSR1,
                                SIGUSR2, SIGCONT, SIGTSTP, SIGWINCH};

void say(const std::string& text) {
  const std::string line = "fermata-podinit: " + text + "\n";
  // Nowhere to complain when the job's stderr is gone.
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

Result<PodinitConfig> read_config() {
  const UniqueFd fd(kConfigFd);
  std::string text;
  std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) {
      return failure(Code::kUsage, "this program is started by fermata as PID 1 of a pod");
    }
    if (got == 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  return decode_podinit_config(text);
}

unsigned usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<unsigned>(std::max(CPU_COUNT(&set), 1));
}

Result<UniqueFd> take_signals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGRTMIN);  // the agent has put something into the inbox
  sigaddset(&set, kRankSignal);
  for (const int signo : kForwarded) sigaddset(&set, signo);
  // Before any thread is there, so that none of libpmix's takes them.
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return errno_failure(errno, "sigprocmask");
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return errno_failure(errno, "signalfd");
  return fd;
}

Status make_session_folders() {
  const std::string base = kSessionFolder;
  for (const std::string& folder : {base, base + "/server", base + "/ranks"}) {
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
      return errno_status(errno, "making " + folder);
    }
  }
  // libpmix keeps files of its own where these say.
  setenv("TMPDIR", kSessionFolder, 1);
  setenv("PMIX_MCA_gds", "hash", 1);
  setenv("PMIX_MCA_psec", "native", 1);
  setenv("PMIX_MCA_ptl_base_if_include", "lo", 1);
  return Status::ok();
}

class Podinit {
 public:
  explicit Podinit(PodinitConfig config)
      : config_(std::move(config)),
        ranks_(config_.ranks),
        context_{PmixJob(config_, kSessionFolder), &ranks_, &mailbox_, &no_exchange_} {}

  /// Exit status of the job.
  Result<int> run() {
    FERMATA_TRY_RESULT(prepare());
    FERMATA_TRY_RESULT(start_ranks());
    while (reap()) wait_for_something();
    return abort_status_.value_or(ranks_.highest_status());
  }

 private:
  Status prepare() {
    FERMATA_ASSIGN_STATUS(signals_, take_signals());
    if (mailbox_.fd() < 0) return errno_status(errno, "eventfd");
    FERMATA_TRY(make_session_folders());
    if (context_.job.pods() > 1 || tells_ends()) FERMATA_TRY(join_exchange());
    return start_pmix_server(context_);
  }

  Status join_exchange() {
    const std::string root = "/";
    FERMATA_TRY(make_exchange_folders(root + kExchangeOut, root + kExchangeIn));
    exchange_.emplace(
        root + kExchangeOut, root + kExchangeIn, mailbox_,
        FolderExchange::Handlers{
            serve_rank, serve_names,
            [this](int32_t status, const std::string& why) { on_aborted_elsewhere(status, why); },
            [this](uint32_t rank) { unheard_.erase(rank); }, say});
    if (context_.job.pods() > 1) context_.exchange = &*exchange_;
    return Status::ok();
  }

  /// A process outside stands for each rank and waits for its end.
  bool tells_ends() const { return !config_.starts.empty(); }

  Status start_ranks() {
    const unsigned cores = usable_cores();
    const std::vector<uint32_t>& here = context_.job.ranks_here();
    if (tells_ends()) umask(static_cast<mode_t>(config_.umask));
    for (uint32_t local = 0; local < here.size(); ++local) {
      const uint32_t rank = here[local];
      RankStart start = tells_ends()
                            ? config_.starts[local]
                            : RankStart{config_.program, config_.command, config_.environment, {}};
      start.environment = rank_environment(
          start.environment, {config_.job, rank, config_.ranks, local,
                              static_cast<uint32_t>(here.size()), context_.job.pods(), cores});
      FERMATA_TRY(add_pmix_variables(context_, rank, start.environment));
      FERMATA_TRY(ranks_.start(rank, start, tells_ends() ? streams_of(local) : -1));
    }
    return Status::ok();
  }

  static int streams_of(uint32_t local) { return kFirstRankStream + 3 * static_cast<int>(local); }

  /// Takes in every child that ended, ranks and orphans; false when there is none left, or nothing
  /// left to wait for.
  bool reap() {
    for (;;) {
      int status = 0;
      const pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid < 0 && errno == EINTR) continue;
      if (pid <= 0 && tells_ends()) return ranks_.any_running() || waits_to_be_heard();
      if (pid <= 0) return pid == 0;
      const std::optional<uint32_t> rank = ranks_.ended(pid, status);
      if (!rank) continue;
      on_rank_ended(*rank);
      if (tells_ends()) tell_end(*rank, status);
    }
  }

  /// An agent that goes when no rank is left would take its knowledge of how they ended with it.
  bool waits_to_be_heard() {
    const Clock::time_point now = Clock::now();
    if (!heard_by_) heard_by_ = now + kUntilHeard;
    return !unheard_.empty() && now < *heard_by_;
  }

  void tell_end(uint32_t rank, int wait_status) {
    unheard_.insert(rank);
    // One of those that fell to another's abort: what that one said is the step's status.
    const bool fell = ending_ && abort_status_ && WIFSIGNALED(wait_status) &&
                      (WTERMSIG(wait_status) == SIGTERM || WTERMSIG(wait_status) == SIGKILL);
    exchange_->rank_ended(rank, fell ? W_EXITCODE(*abort_status_, 0) : wait_status);
    const std::vector<uint32_t>& here = context_.job.ranks_here();
    const auto local =
        static_cast<uint32_t>(std::find(here.begin(), here.end(), rank) - here.begin());
    // Whoever reads what it wrote sees the end. The numbers stay taken: they are known as streams.
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    for (int stream = 0; stream < 3; ++stream) {
      dup3(null.get(), streams_of(local) + stream, O_CLOEXEC);
    }
  }

  void on_rank_ended(uint32_t rank) {
    pmix_proc_t process;
    PMIX_LOAD_PROCID(&process, context_.job.nspace.c_str(), rank);
    forget_names_of(process);
    if (ending_ || !ranks_.left_without_finalize(rank)) return;
    const int status = ranks_.status_of(rank);
    if (status == 0) {
      // It says that all is well, and its peers wait for it forever: that is no success.
      abort_status_ = 1;
    }
    end_job(fmt::format("rank {} ended with status {} and without MPI_Finalize; ending the job",
                        rank, status),
            SIGTERM, rank);
  }

  /// Something here ends the whole step: the other pods are told.
  void end_job(const std::string& why, int signo, std::optional<uint32_t> culprit) {
    if (ending_) return;
    say(why);
    const int status =
        abort_status_.value_or(culprit ? std::max(ranks_.status_of(*culprit), 1) : 1);
    context_.exchange->abort(status, fmt::format("{}: {}", config_.hosts[config_.pod], why));
    end_ranks(signo, culprit);
  }

  void on_aborted_elsewhere(int32_t status, const std::string& why) {
    if (ending_) return;
    say(why);
    abort_status_ = status & 0xff;
    end_ranks(SIGTERM, std::nullopt);
  }

  void end_ranks(int signo, std::optional<uint32_t> culprit) {
    ending_ = true;
    ranks_.stop_counting(culprit);
    kill_at_ = Clock::now() + kGrace;
    // -1 from PID 1: everybody else in the pod, daemons included. Stopped ones have to wake to end.
    kill(-1, signo);
    kill(-1, SIGCONT);
  }

  void wait_for_something() {
    std::array<pollfd, 2> sources{{{signals_.get(), POLLIN, 0}, {mailbox_.fd(), POLLIN, 0}}};
    poll(sources.data(), sources.size(), milliseconds_to_deadline());
    take_signals_in();
    for (const Message& message : mailbox_.take()) handle(message);
    const Clock::time_point now = Clock::now();
    context_.publisher.expire(now);
    if (kill_at_ && now >= *kill_at_) {
      kill(-1, SIGKILL);
      kill_at_ = now + kGrace;  // whoever was forked meanwhile
    }
  }

  int milliseconds_to_deadline() {
    std::optional<Clock::time_point> next = context_.publisher.next_deadline();
    for (const std::optional<Clock::time_point>& other : {kill_at_, heard_by_}) {
      if (other && (!next || *other < *next)) next = other;
    }
    if (!next) return -1;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(*next - Clock::now()).count() + 1;
    return static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX));
  }

  void take_signals_in() {
    signalfd_siginfo info{};
    bool has_mail = false;
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      const int signo = static_cast<int>(info.ssi_signo);
      if (signo == SIGRTMIN) {
        has_mail = true;
      } else if (signo == kRankSignal) {
        const auto rank = static_cast<uint32_t>(info.ssi_int) >> 8U;
        if (rank < ranks_.size()) ranks_.signal(rank, info.ssi_int & 0xff);
      } else if (signo != SIGCHLD) {
        ranks_.signal_all(signo);
      }
    }
    if (has_mail && exchange_) exchange_->read_inbox();
  }

  void handle(const Message& message) {
    switch (message.kind) {
      case Message::Kind::kAbort:
        if (!ending_) abort_status_ = message.value & 0xff;
        end_job(fmt::format("rank {} aborted the job with status {}", message.rank, message.value),
                SIGTERM, std::nullopt);
        break;
      case Message::Kind::kLost:
        on_lost(message.rank);
        break;
      case Message::Kind::kSignal:
        for (const uint32_t rank : message.ranks) ranks_.signal(rank, message.value);
        if (message.ranks.empty()) ranks_.signal_all(message.value);
        break;
      case Message::Kind::kEnd:
        if (!ending_) abort_status_ = 128 + message.value;
        end_job("a rank asked for the end of the job", message.value, std::nullopt);
        break;
      case Message::Kind::kCall:
        message.call();
        break;
      case Message::Kind::kWake:
        break;
    }
  }

  /// A rank's MPI process is gone. Mostly it is the rank itself, and reap() has seen or will see
  /// it; behind a script that runs on, this is all we learn.
  void on_lost(uint32_t rank) {
    if (ending_ || !ranks_.running(rank) || !ranks_.left_without_finalize(rank)) return;
    end_job(
        fmt::format("the MPI process of rank {} ended without MPI_Finalize; ending the job", rank),
        SIGTERM, rank);
  }

  PodinitConfig config_;
  RankTable ranks_;
  Mailbox mailbox_;
  SinglePodExchange no_exchange_;
  std::optional<FolderExchange> exchange_;  ///< in a step of several pods
  PmixContext context_;
  UniqueFd signals_;
  bool ending_ = false;
  std::optional<int> abort_status_;
  std::optional<Clock::time_point> kill_at_;
  std::set<uint32_t> unheard_;  ///< ranks that have ended
  std::optional<Clock::time_point> heard_by_;
};

int run_podinit() {
  Result<PodinitConfig> config = read_config();
  if (!config) {
    say(config.error().message());
    return kFailedStatus;
  }
  Podinit podinit(*std::move(config));
  const Result<int> status = podinit.run();
  if (!status) {
    say(status.error().message());
    // Whoever was started goes with PID 1.
    _exit(kFailedStatus);
  }
  // Not PMIx_server_finalize: no client is left, the session files go with the pod's /dev/shm, and
  // libpmix has threads that could hold us up.
  _exit(*status);
}

}  // namespace
}  // namespace fermata::pod

int main() { return fermata::pod::run_podinit(); }
