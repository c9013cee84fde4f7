#include "cli/cluster_job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "cli/coordinator.h"
#include "cli/follow.h"
#include "cli/job_session.h"
#include "cli/job_signals.h"
#include "common/log.h"
#include "common/time_parse.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kPumpMs = 100;
// Two interrupts so close to each other are for the command, not for the job.
constexpr std::chrono::seconds kSecond{1};

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

std::string working_directory() {
  std::error_code error;
  return fs::current_path(error).native();
}

wire::Streams streams_of(const ClusterOptions& options) {
  std::error_code error;
  wire::Streams streams;
  if (!options.output.empty()) streams.set_output(fs::absolute(options.output, error).native());
  if (!options.error.empty()) streams.set_error(fs::absolute(options.error, error).native());
  return streams;
}

/// Where a file that was there before the job began ends: what stands in it is not told again.
class OldFiles {
 public:
  void note(std::string file, const std::string& job) {
    const size_t at = file.find("%j");
    if (at != std::string::npos) file.replace(at, 2, job);
    sizes_[file] = size_of(file);
  }
  off_t end_of(const std::string& file, off_t otherwise) const {
    const auto found = sizes_.find(file);
    return found == sizes_.end() ? otherwise : found->second;
  }

 private:
  std::map<std::string, off_t> sizes_;
};

/// A call that may take minutes, and is left at a signal: what was asked for may come all the same.
template <typename Reply, typename Call>
Result<Reply> unless_interrupted(Call call) {
  const sigset_t set = forwarded_set();
  const UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  const UniqueFd done(eventfd(0, EFD_CLOEXEC));
  if (!signals || !done) return errno_failure(errno, "waiting for the coordinator");
  Result<Reply> reply = failure(Code::kInternal, "no answer");
  const std::jthread asking([&] {
    reply = call();
    eventfd_write(done.get(), 1);
  });
  std::array<pollfd, 2> waits{pollfd{done.get(), POLLIN, 0}, pollfd{signals.get(), POLLIN, 0}};
  for (;;) {
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if ((waits[0].revents & POLLIN) != 0) break;
    signalfd_siginfo info{};
    if (read(signals.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) continue;
    const int signo = static_cast<int>(info.ssi_signo);
    if (signo == SIGINT || signo == SIGTERM || signo == SIGHUP || signo == SIGQUIT) {
      say("left before the coordinator answered; `fermata jobs` tells whether the job was started");
      _exit(128 + signo);
    }
  }
  return reply;
}

/// Until the job has ended: its output is copied, signals are handed on.
class Vigil {
 public:
  Vigil(CoordinatorAccess& access, const wire::RunReply& begun)
      : access_(access), signal_client_(access.another_client()), ended_(eventfd(0, EFD_CLOEXEC)) {
    job_.set_job(begun.job());
    job_.set_step(begun.step());
  }

  Follower& follower() { return follower_; }

  Result<int> keep() {
    const sigset_t set = forwarded_set();
    const UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals || !ended_) return errno_failure(errno, "waiting for the job");
    Result<wire::WaitReply> reply = failure(Code::kInternal, "no answer");
    {
      JobSignals to_job([&](int signo) { send(signo, to_job); },
                        [this] { signal_client_->cancel(); });
      const std::jthread waiter([&] {
        reply = access_.another_client()->wait(job_);
        eventfd_write(ended_.get(), 1);
      });
      std::array<pollfd, 2> waits{pollfd{ended_.get(), POLLIN, 0},
                                  pollfd{signals.get(), POLLIN, 0}};
      while ((waits[0].revents & POLLIN) == 0) {
        if (poll(waits.data(), waits.size(), kPumpMs) < 0 && errno != EINTR) break;
        if ((waits[1].revents & POLLIN) != 0) forward(signals.get(), to_job);
        follower_.pump();
      }
    }
    follower_.pump();
    if (!reply) return Failure(reply.error());
    FERMATA_TRY_RESULT(wire::to_status(reply->outcome()));
    if (!reply->sentence().empty()) say(reply->sentence());
    return reply->exit_status();
  }

 private:
  void forward(int signals, JobSignals& to_job) {
    signalfd_siginfo info{};
    while (read(signals, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      if (info.ssi_signo == SIGINT) leave_at_the_second();
      to_job.post(static_cast<int>(info.ssi_signo));
    }
  }

  void send(int signo, const JobSignals& to_job) {
    wire::SignalRequest request;
    request.set_job(job_.job());
    request.set_step(job_.step());
    request.set_signal(signo);
    const Status sent = signal_client_->signal(request);
    if (sent || to_job.over()) return;
    if (sent.code() == Code::kTimeout) {
      say(fmt::format("whether signal {} has reached all of the job is not known yet: {}", signo,
                      sent.message()));
    } else {
      say(fmt::format("signal {} did not reach all of the job: {}", signo, sent.message()));
    }
  }

  void leave_at_the_second() {
    const auto now = std::chrono::steady_clock::now();
    if (interrupted_ && now - *interrupted_ < kSecond) {
      say(fmt::format("left; `fermata jobs` tells whether job {} still runs",
                      to_string(JobStep{job_.job(), job_.step()})));
      _exit(128 + SIGINT);
    }
    interrupted_ = now;
  }

  CoordinatorAccess& access_;
  const std::unique_ptr<ControlClient> signal_client_;
  wire::JobRequest job_;
  std::optional<std::chrono::steady_clock::time_point> interrupted_;
  UniqueFd ended_;
  Follower follower_;
};

std::string where(const wire::RunReply& begun) {
  return fmt::format("on {}, output in {}", fmt::join(begun.nodes(), ","),
                     fmt::join(begun.outputs(), " "));
}

Result<int> stay_with(CoordinatorAccess& access, const wire::RunReply& begun, const OldFiles& old,
                      bool from_start) {
  Vigil vigil(access, begun);
  for (const std::string& file : begun.outputs()) {
    vigil.follower().add(file, old.end_of(file, from_start ? 0 : size_of(file)));
  }
  return vigil.keep();
}

}  // namespace

std::string ClusterOptions::needs() const {
  if (!nodes.empty()) return "--nodes";
  if (!output.empty()) return "--output";
  if (!error.empty()) return "--error";
  if (external_tcp == "reset") return "--external-tcp reset";
  return detach ? "--detach" : "";
}

Result<int> run_on_cluster(const Invocation& invocation, const ClusterOptions& options,
                           const ClusterRun& run) {
  // Before a thread is there, so that none takes one.
  if (!options.detach) FERMATA_TRY_RESULT(take_over_signals());
  FERMATA_ASSIGN(const Credentials caller, credentials_of_caller());
  CoordinatorAccess access(invocation);
  wire::RunRequest request;
  request.set_ranks(run.ranks);
  if (is_number(options.nodes)) {
    // A number too large for the type is one for the coordinator to refuse.
    request.set_node_count(static_cast<uint32_t>(
        std::min<uint64_t>(std::strtoull(options.nodes.c_str(), nullptr, 10), UINT32_MAX)));
  } else {
    for (std::string& name : split_names(options.nodes)) request.add_nodes(std::move(name));
  }
  for (const std::string& word : run.command) request.add_command(word);
  for (std::string& variable : environment_for(caller)) {
    request.add_environment(std::move(variable));
  }
  request.set_working_directory(working_directory());
  request.set_checkpoint_dir(invocation.checkpoint_dir(run.dir).native());
  request.set_interval_ms(static_cast<uint64_t>(run.interval.count()));
  *request.mutable_streams() = streams_of(options);
  request.set_external_tcp(options.external_tcp);
  request.set_track(run.track);
  request.set_full_every(run.full_every);
  if (run.keep) request.set_keep(*run.keep);
  request.set_compress(run.compress);
  OldFiles old;
  if (!request.streams().output().empty()) old.note(request.streams().output(), "");

  const auto ask = [&] { return access.client().run(request); };
  FERMATA_ASSIGN(const wire::RunReply begun,
                 options.detach ? ask() : unless_interrupted<wire::RunReply>(ask));
  FERMATA_TRY_RESULT(wire::to_status(begun.outcome()));
  if (!run.quiet) {
    const std::string when = run.interval.count() > 0
                                 ? fmt::format("every {}", format_duration(run.interval))
                                 : std::string("on request");
    say(fmt::format("job {} started ({} {} {}), checkpoints in {} {}",
                    to_string(JobStep{begun.job(), begun.step()}), run.ranks,
                    run.ranks == 1 ? "rank" : "ranks", where(begun), request.checkpoint_dir(),
                    when));
  }
  return options.detach ? 0 : stay_with(access, begun, old, true);
}

Result<int> restart_on_cluster(const Invocation& invocation, const ClusterOptions& options,
                               const ClusterRestart& restart) {
  if (!options.detach) FERMATA_TRY_RESULT(take_over_signals());
  CoordinatorAccess access(invocation);
  wire::RestartRequest request;
  OldFiles old;
  if (!restart.job.empty()) {
    FERMATA_ASSIGN(const JobStep step, parse_job_step(restart.job));
    request.set_job(step.job);
    request.set_step(step.step);
    const std::string number = std::to_string(step.job);
    old.note(working_directory() + "/fermata-%j.out", number);
    if (!options.output.empty()) old.note(streams_of(options).output(), number);
  }
  request.set_crid(restart.crid);
  // Where the job is known its folder is, too: it need not be named.
  const bool folder_needed = !restart.dir.empty() || restart.job.empty();
  if (folder_needed) request.set_checkpoint_dir(invocation.checkpoint_dir(restart.dir).native());
  for (std::string& name : split_names(options.nodes)) request.add_nodes(std::move(name));
  request.set_interval_ms(static_cast<uint64_t>(restart.interval.count()));
  request.set_numa(restart.numa);
  request.set_lazy(restart.lazy);
  request.set_track(restart.track);
  request.set_full_every(restart.full_every);
  request.set_compress(restart.compress);
  *request.mutable_streams() = streams_of(options);
  request.set_working_directory(working_directory());
  if (restart.keep) request.set_keep(*restart.keep);

  const auto ask = [&]() -> Result<wire::RunReply> {
    if (options.detach) return access.client().restart(request);
    return unless_interrupted<wire::RunReply>([&] { return access.client().restart(request); });
  };
  FERMATA_ASSIGN(wire::RunReply begun, ask());
  if (!folder_needed && wire::to_status(begun.outcome()).code() == Code::kNotFound) {
    request.set_checkpoint_dir(invocation.checkpoint_dir("").native());
    FERMATA_ASSIGN(begun, ask());
  }
  FERMATA_TRY_RESULT(wire::to_status(begun.outcome()));
  for (const std::string& note : begun.notes()) log_warning(storage::printable(note));
  if (!restart.quiet) {
    say(fmt::format("job {} restarted from checkpoint {} {}",
                    to_string(JobStep{begun.job(), begun.step()}), begun.crid(), where(begun)));
  }
  return options.detach ? 0 : stay_with(access, begun, old, false);
}

}  // namespace fermata::cli
