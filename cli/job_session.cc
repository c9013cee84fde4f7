#include "cli/job_session.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/embedded_agent.h"
#include "common/signals.h"
#include "common/time_parse.h"
#include "coord/describe.h"
#include "coord/schedule.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// What a user, a shell or a batch system sends; each goes to the job, unless it is ignored here.
constexpr std::array kForwarded{SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
                                SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};

/// Exit status of a job ended by `fermata checkpoint --kill`: as a shell says "killed".
constexpr int kEndedByRequest = 128 + SIGKILL;

double milliseconds_of(coord::Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

/// For poll(2): -1, for ever, where there is nothing to wait for.
int milliseconds_to(std::optional<Clock::time_point> when) {
  if (!when) return -1;
  const auto left = std::chrono::ceil<milliseconds>(*when - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

class Session {
 public:
  Session(pod::Pod& pod, const node_agent::JobRecord& record, const Credentials& owner,
          node_agent::ControlServer& control, coord::Coordinator& coordinator,
          const SessionOptions& options)
      : pod_(pod),
        record_(record),
        owner_(owner),
        control_(control),
        coordinator_(coordinator),
        options_(options),
        schedule_(options.interval),
        agent_({.job = record.job,
                .init = pod.init_pid(),
                .group = pod.group(),
                .owner = owner,
                .write_bandwidth = options.write_bandwidth,
                .precopy = options.precopy,
                .lazy = options.lazy}) {}

  int run() {
    const sigset_t set = forwarded_set();
    signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    std::array<pollfd, 3> waits{pollfd{pod_.init_pidfd(), POLLIN, 0},
                                pollfd{control_.fd(), POLLIN, 0},
                                pollfd{signals_.get(), POLLIN, 0}};
    while (true) {
      if (poll(waits.data(), waits.size(), milliseconds_to(schedule_.next())) < 0 &&
          errno != EINTR) {
        // The job is not to blame: it runs on without us.
        return fail(errno_status(errno, fmt::format("waiting for job {}", to_string(record_.job))));
      }
      // Signals go first: they must not wait for a set. The end of the job goes before a set of it.
      if ((waits[2].revents & POLLIN) != 0) forward_signals();
      if ((waits[0].revents & POLLIN) != 0) break;
      if ((waits[1].revents & POLLIN) != 0) answer();
      if (schedule_.due() && !job_has_ended()) {
        checkpoint(false, "", std::nullopt);
        schedule_.advance();
      }
    }
    return finish();
  }

 private:
  bool job_has_ended() const {
    pollfd init{pod_.init_pidfd(), POLLIN, 0};
    return poll(&init, 1, 0) == 1;
  }

  void forward_signals() {
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      // A job that ends meanwhile needs no signal.
      [[maybe_unused]] const Status sent = pod_.signal(static_cast<int>(info.ssi_signo));
    }
  }

  /// `compress`, `keep`: of this set alone; empty: as always.
  coord::TriedSet checkpoint(bool end_job, const std::string& compress,
                             std::optional<uint32_t> keep) {
    SessionOptions how = options_;
    if (!compress.empty()) how.compress = compress;
    how.keep = keep.value_or(options_.keep);
    coord::TriedSet tried = take_set(coordinator_, record_, owner_, agent_, how, end_job);
    if (tried.outcome.committed()) {
      last_committed_ = tried.crid;
      ended_by_request_ = end_job && tried.outcome.end_job.is_ok();
      if (!options_.quiet) say(coord::describe(tried));
    } else if (job_has_ended()) {
      if (!options_.quiet) say("no checkpoint: the job ended meanwhile");
    } else {
      say(coord::describe(tried) + "; the job runs on");
    }
    return tried;
  }

  void answer() {
    std::optional<node_agent::ControlCall> call = control_.accept();
    if (!call) return;
    if (call->request().kind == node_agent::ControlRequest::Kind::kAble) {
      call->reply(answer_able(coordinator_, agent_));
      return;
    }
    const node_agent::ControlRequest& request = call->request();
    const coord::TriedSet tried = checkpoint(request.end_job, request.compress, request.keep);
    call->reply({tried.outcome.status, coord::describe_json(tried)});
  }

  int finish() {
    const std::optional<int> status = pod_.reap();
    const Status destroyed = pod_.destroy();
    if (!destroyed) say(destroyed.message());
    const std::string job = to_string(record_.job);
    const Status loss = options_.lazy == nullptr ? Status::ok() : options_.lazy->loss();
    if (!loss) return fail(loss.within(fmt::format("job {} was ended", job)));
    if (ended_by_request_) {
      say(fmt::format("job {} was ended after checkpoint {}; `fermata restart {}` continues it",
                      job, to_string(last_committed_), job));
      return kEndedByRequest;
    }
    if (!status) {
      return fail({Code::kGone, fmt::format("job {} has ended, but how is not known: somebody else "
                                            "waited for its PID 1",
                                            job)});
    }
    if (WIFEXITED(*status)) return WEXITSTATUS(*status);
    std::string line = fmt::format("job {} was killed by signal {} ({})", job, WTERMSIG(*status),
                                   strsignal(WTERMSIG(*status)));
    if (last_committed_.value != 0) {
      line += fmt::format("; `fermata restart {}` continues it from checkpoint {}", job,
                          to_string(last_committed_));
    }
    say(line);
    return 128 + WTERMSIG(*status);
  }

  pod::Pod& pod_;
  const node_agent::JobRecord& record_;
  const Credentials& owner_;
  node_agent::ControlServer& control_;
  coord::Coordinator& coordinator_;
  const SessionOptions options_;
  coord::Schedule schedule_;
  node_agent::PodAgent agent_;
  UniqueFd signals_;
  Crid last_committed_;
  bool ended_by_request_ = false;
};

}  // namespace

/// Blocked, those we were started to ignore would come through to a signalfd all the same.
sigset_t forwarded_set() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signo : kForwarded) {
    if (!signal_is_ignored(signo)) sigaddset(&set, signo);
  }
  return set;
}

Result<std::chrono::milliseconds> parse_interval(const std::string& text) {
  if (text.empty()) return std::chrono::milliseconds(0);
  FERMATA_ASSIGN(const std::chrono::milliseconds interval, parse_duration(text));
  if (interval.count() == 0) {
    return failure(Code::kUsage, "--checkpoint-interval: must be more than zero");
  }
  return interval;
}

Status take_over_signals() {
  const sigset_t set = forwarded_set();
  if (const int error = pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    return errno_status(error, "blocking signals");
  }
  return {};
}

coord::TriedSet take_set(coord::Coordinator& coordinator, const node_agent::JobRecord& record,
                         const Credentials& owner, node_agent::PodAgent& agent,
                         const SessionOptions& options, bool end_job) {
  EmbeddedAgent embedded(agent);
  const std::array<coord::Agent*, 1> agents{&embedded};
  coord::JobDescription job{record.job, record.ranks, record.command, owner};
  job.track = options.track;
  job.compress = options.compress;
  job.full_every = options.full_every;
  job.keep = options.keep;
  return coordinator.take_set(job, agents, end_job);
}

node_agent::ControlReply answer_able(const coord::Coordinator& coordinator,
                                     node_agent::PodAgent& agent) {
  Result<node_agent::AbleAnswer> able = failure(Code::kInternal, "not asked");
  coord::SameEachTime same(coordinator.patience());
  coord::try_patiently(coordinator.patience(), [&] {
    able = agent.able(EmbeddedAgent::kFreezeDeadline);
    const Status told = able ? Status::ok() : able.error();
    same.note(told, /*judged=*/true);
    return told.code();
  });
  if (!able) able = Failure(same.verdict());
  json out = {{"able", able.has_value()}};
  if (!able) {
    out["reason"] = able.error().message();
    return {able.error(), out.dump(2, ' ', false, json::error_handler_t::replace)};
  }
  out["memory_bytes"] = able->memory_bytes;
  out["image_bytes"] = able->image_bytes;
  out["processes"] = able->processes;
  out["threads"] = able->threads;
  out["stand_still_ms"] = milliseconds_of(able->stand_still);
  const Result<double> rate = coordinator.write_rate();
  if (rate) {
    out["seconds"] =
        milliseconds_of(able->stand_still) / 1000 + static_cast<double>(able->image_bytes) / *rate;
    out["write_bytes_per_second"] = *rate;
  } else {
    out["folder_problem"] = rate.error().message();
  }
  return {Status::ok(), out.dump(2, ' ', false, json::error_handler_t::replace)};
}

int hold_job(pod::Pod& pod, const node_agent::JobRecord& record, const Credentials& owner,
             node_agent::ControlServer& control, coord::Coordinator& coordinator,
             const SessionOptions& options) {
  return Session(pod, record, owner, control, coordinator, options).run();
}

}  // namespace fermata::cli
