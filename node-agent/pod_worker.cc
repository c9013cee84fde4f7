#include "node-agent/pod_worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/outer_groups.h"
#include "node-agent/set_phase.h"
#include "proto/outcome.h"

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// How long processes have to stop.
constexpr seconds kFreezeDeadline{10};
// An order without a time of its own.
constexpr std::chrono::minutes kLongOrder{10};
// By how much the slowest agent's answer, and what follows from it, may come after our own.
constexpr seconds kBarrierMargin{30};
// Between two phases, where nobody is held up by the wait: others write, or wait to.
constexpr std::chrono::hours kBarrier{12};
// For the other pods of a set to join as well. By then they have, unless the next phase says so
// before.
constexpr milliseconds kOthersJoin{100};
// For who waits for the orphan's end to tell how it was.
constexpr seconds kStatusPatience{2};
// For the exchange's thread to come back from the file system.
constexpr seconds kHoldPatience{5};

template <typename Duration>
milliseconds left_until(std::chrono::time_point<steady_clock, Duration> deadline) {
  return std::max(std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now()),
                  milliseconds(0));
}

}  // namespace

PodWorker::PodWorker(PodRecord record, bool adopt, PodHostSettings settings, PodHostEvents events)
    : settings_(std::move(settings)),
      events_(std::move(events)),
      registry_(settings_.run_dir),
      record_(std::move(record)),
      adopt_(adopt) {
  thread_ = std::thread([this] { run(); });
}

PodWorker::~PodWorker() {
  queue_.quit();
  thread_.join();
}

PodWorker::Time PodWorker::Open::next_by() const { return deadline + kBarrierMargin; }

PodWorker::Open PodWorker::open(const wire::Order& order) {
  const Time now = steady_clock::now();
  const nanoseconds given(order.timeout_ns());
  return {order.id(), now, now + (given.count() > 0 ? given : nanoseconds(kLongOrder))};
}

// ---- what others call

void PodWorker::order(wire::Order order) {
  const std::lock_guard lock(mutex_);
  if (closed_) {
    answer_gone(order);
    return;
  }
  if (order.has_signal() && pidfd_) {
    // Past the queue: a signal does not wait for a set to be written.
    const Open now = open(order);
    const int signo = order.signal().signal();
    const int error = pod::send_signal(pidfd_.get(), signo);
    answer(now, error == 0 ? Status::ok()
                           : errno_status(error, fmt::format("sending signal {} to pod {}", signo,
                                                             to_string(record_.id))));
    return;
  }
  // Whatever its thread is at: the pod shall not be, so its processes go now.
  const bool end = order.has_destroy();
  queue_.post(std::move(order));
  if (end && !group_.empty()) {
    const Status killed = pod::kill_group(group_);
    if (!killed) log_error(killed.message());
  }
}

void PodWorker::signal_rank(uint32_t rank, int signo) {
  const std::lock_guard lock(mutex_);
  if (!pidfd_) return;
  const int error = pod::send_rank_signal(pidfd_.get(), rank, signo);
  if (error != 0 && error != ESRCH) {
    log_error(errno_status(error, fmt::format("signal {} to rank {} of pod {}", signo, rank,
                                              to_string(record_.id)))
                  .message());
  }
  if (signo == SIGTSTP || signo == SIGCONT) stopped_ = signo == SIGTSTP;
  // By these Slurm ends a step; whatever the ranks then return, they were not through.
  if (signo == SIGTERM || signo == SIGKILL || signo == SIGINT || signo == SIGXCPU) {
    ending_signal_ = signo;
    if (ends_) ends_->signalled(signo);
  }
}

std::string PodWorker::by_signal(int signo) {
  return fmt::format("Slurm has sent signal {}", signo);
}

void PodWorker::kill() {
  const std::lock_guard lock(mutex_);
  ending_signal_ = SIGKILL;
  if (ends_) ends_->signalled(SIGKILL);
  abandoned_ = true;
  if (group_.empty()) return;
  const Status killed = pod::kill_group(group_);
  if (!killed) log_error(killed.message());
}

void PodWorker::deliver(wire::ExchangeDown message) {
  const std::lock_guard lock(mutex_);
  if (exchange_) exchange_->deliver(std::move(message));
}

void PodWorker::coordinator_back() {
  const std::lock_guard lock(mutex_);
  if (exchange_) exchange_->resend();
}

std::optional<wire::LivingPod> PodWorker::living() const {
  const std::lock_guard lock(mutex_);
  return living_;
}

// ---- the thread

void PodWorker::run() {
  if (adopt_) {
    if (const Status adopted = adopt(); !adopted) {
      log_warning(fmt::format("pod {}: {}", to_string(record_.id), adopted.message()));
      forget();
      over(report_of(record_));
    }
  }
  while (!over_) {
    Wake wake = queue_.wait(pod_ ? pod_->init_pidfd() : -1, nudge_at_ ? nudge_at_ : next_phase_);
    switch (wake.kind) {
      case Wake::Kind::kOrder:
        handle(wake.order);
        break;
      case Wake::Kind::kLost:
        if (set_ != 0) log_warning(fmt::format("set {}: the coordinator is lost", set_));
        roll_back();
        if (!pod_) over(std::nullopt);
        break;
      case Wake::Kind::kDeadline:
        if (nudge_at_) {
          nudge_at_.reset();
          agent_->nudge();
          break;
        }
        log_warning(fmt::format("set {} of pod {}: the next phase did not come", set_,
                                to_string(record_.id)));
        roll_back();
        break;
      case Wake::Kind::kPodEnded:
        pod_has_ended();
        break;
      case Wake::Kind::kQuit:
        roll_back();
        agent_.reset();
        return;
    }
  }
  agent_.reset();
}

void PodWorker::handle(const wire::Order& order) {
  using Kind = wire::Order::KindCase;
  const Kind kind = order.kind_case();
  const bool starts = kind == Kind::kLaunch || kind == Kind::kRestore;
  if (starts == pod_.has_value() && kind != Kind::kDestroy) {
    answer(order, starts ? Status(Code::kConflict,
                                  fmt::format("pod {} runs here already", to_string(record_.id)))
                         : Status(Code::kNotFound,
                                  fmt::format("pod {} does not run here", to_string(record_.id))));
    return;
  }
  switch (kind) {
    case Kind::kLaunch: {
      const Open now = open(order);
      const Status launched = launch(order.launch());
      if (!launched) over(std::nullopt);
      answer(now, launched);
      break;
    }
    case Kind::kRestore:
      restore(order);
      break;
    case Kind::kPhase:
      phase(order);
      break;
    case Kind::kRollBack: {
      const Open now = open(order);
      if (order.roll_back().crid() == 0 || order.roll_back().crid() == set_) roll_back();
      answer(now, Status::ok());
      break;
    }
    case Kind::kEndJob:
      end_job(order);
      break;
    case Kind::kAble:
      able(order);
      break;
    case Kind::kSignal:
      answer(order, pod_->signal(order.signal().signal()));
      break;
    case Kind::kDestroy:
      destroy(order);
      break;
    case Kind::kConnect:
    case Kind::kGo:
    case Kind::kRefuse:  // these two are for no pod
    case Kind::kPassTerm:
    case Kind::KIND_NOT_SET:
      answer(order, {Code::kConflict,
                     fmt::format("pod {} is not being restarted", to_string(record_.id))});
      break;
  }
}

void PodWorker::answer(const Open& open, const Status& status, const Fill& fill) {
  wire::Done done;
  done.set_order(open.id);
  *done.mutable_outcome() = wire::to_outcome(status);
  done.set_took_ns(static_cast<uint64_t>(
      std::chrono::duration_cast<nanoseconds>(steady_clock::now() - open.began).count()));
  if (fill) fill(done);
  events_.done(std::move(done));
}

// ---- sets

void PodWorker::phase(const wire::Order& order) {
  const Open now = open(order);
  next_phase_.reset();
  nudge_at_.reset();
  Status status = carry_out(order.phase(), now);
  if (status && steady_clock::now() > now.deadline) {
    status = {Code::kTimeout, "did not end before its deadline"};
  }
  if (!status) {
    answer(now, status);
    roll_back();
    return;
  }
  const auto phase = static_cast<SetPhase>(order.phase().phase());
  const bool cut = phase == SetPhase::kIsolate || phase == SetPhase::kCapture;
  if (set_ != 0) next_phase_ = cut ? cut_until_ : steady_clock::now() + kBarrier;
  answer(now, status, [&](wire::Done& done) { report_on(done); });
}

Status PodWorker::carry_out(const wire::PhaseOrder& order, const Open& now) {
  const auto phase = static_cast<SetPhase>(order.phase());
  if (phase != SetPhase::kPrepare && (set_ == 0 || order.crid() != set_)) {
    return {Code::kConflict, fmt::format("set {} is not in work here: it was rolled back, or the "
                                         "agent was started anew",
                                         order.crid())};
  }
  const auto cut = [&] {
    const nanoseconds at_most = now.deadline - now.began + kBarrierMargin;
    cut_until_ = steady_clock::now() + at_most;
    return agent_->isolate(at_most);
  };
  switch (phase) {
    case SetPhase::kPrepare:
      roll_back();
      if (!isolation_) {
        return {Code::kUnsupported,
                "the pod's group has no isolation: it was not started by this "
                "agent, or its programs were detached"};
      }
      FERMATA_TRY(check_runs());
      set_ = order.crid();
      return agent_->prepare({Crid{order.crid()}, Crid{order.parent()}, order.folder(),
                              order.end_job(), order.track(), order.compress()});
    case SetPhase::kIsolate:
      if (exchange_) FERMATA_TRY(exchange_->hold(kHoldPatience));
      return cut();
    case SetPhase::kCapture:
      // Restarted, it would stand until somebody resumed it.
      FERMATA_TRY(check_runs());
      FERMATA_TRY(cut());
      return agent_->capture(std::min<milliseconds>(left_until(now.deadline), kFreezeDeadline));
    case SetPhase::kJoin: {
      Status joined = agent_->join();
      nudge_at_ = steady_clock::now() + kOthersJoin;
      if (exchange_) exchange_->release();
      return joined;
    }
    case SetPhase::kWriteBack:
      return agent_->write_back();
    case SetPhase::kCommit: {
      FERMATA_TRY(agent_->commit());
      // With end_job the pod stands still until that comes, or the roll-back.
      if (!agent_->stands_still()) set_ = 0;
      return {};
    }
  }
  return {Code::kInternal, fmt::format("there is no phase {}", order.phase())};
}

Status PodWorker::check_runs() const {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return pod::suspended();
  }
  return pod::check_not_suspended(pod_->init_pid(), pod_->group());
}

void PodWorker::report_on(wire::Done& done) const {
  const ImageNumbers& numbers = agent_->numbers();
  wire::PodReport& report = *done.mutable_report();
  report.set_memory_bytes(numbers.memory_bytes);
  report.set_image_bytes(numbers.image_bytes);
  report.set_stand_still_ns(static_cast<uint64_t>(numbers.stand_still.count()));
  report.set_copied(numbers.copied);
  report.set_snapshot(numbers.snapshot);
  report.set_parent(numbers.parent.value);
  report.set_track(numbers.track);
  report.set_image(numbers.image);
  report.set_digest(numbers.digest);
  report.set_time(numbers.time);
  for (const image::OutsideConnection& connection : agent_->outside_connections()) {
    *done.add_connections() = connection;
  }
}

void PodWorker::roll_back() {
  set_ = 0;
  next_phase_.reset();
  nudge_at_.reset();
  if (agent_) agent_->roll_back();
  if (exchange_) exchange_->release();
}

void PodWorker::able(const wire::Order& order) {
  const Open now = open(order);
  if (set_ != 0) {
    answer(now, {Code::kBusy, fmt::format("set {} is being taken", set_)});
    return;
  }
  if (const Status runs = check_runs(); !runs) {
    answer(now, runs);
    return;
  }
  const Result<AbleAnswer> able =
      agent_->able(std::min<milliseconds>(left_until(now.deadline), kFreezeDeadline));
  if (!able) {
    answer(now, able.error());
    return;
  }
  answer(now, Status::ok(), [&](wire::Done& done) {
    wire::AbleReport& report = *done.mutable_able();
    report.set_memory_bytes(able->memory_bytes);
    report.set_image_bytes(able->image_bytes);
    report.set_processes(able->processes);
    report.set_threads(able->threads);
    report.set_stand_still_ns(static_cast<uint64_t>(able->stand_still.count()));
    for (const image::OutsideConnection& connection : agent_->outside_connections()) {
      *done.add_connections() = connection;
    }
  });
}

void PodWorker::end_job(const wire::Order& order) {
  const Open now = open(order);
  if (set_ == 0 || order.end_job().crid() != set_) {
    answer(now,
           {Code::kConflict, fmt::format("set {} is not in work here", order.end_job().crid())});
    return;
  }
  record_.reason = fmt::format("ended after checkpoint {}", set_);
  const Status ended = agent_->end_job();
  roll_back();
  answer(now, ended);
}

// ---- the end

void PodWorker::destroy(const wire::Order& order) {
  const Open now = open(order);
  roll_back();
  if (pod_) {
    std::optional<wire::LivingPod> named = living();
    forget();
    if (const Status destroyed = pod_->destroy(); !destroyed) {
      // It still is there, so it is still ours, and the next Hello names it.
      const std::lock_guard lock(mutex_);
      group_ = record_.group;
      living_ = std::move(named);
      answer(now, destroyed);
      return;
    }
  }
  registry_.remove(record_.id);
  over(std::nullopt);
  answer(now, Status::ok());
}

void PodWorker::pod_has_ended() {
  roll_back();
  // Reads the outbox a last time: an abort is told before the end that it brings.
  forget();
  record_.wait_status = pod_->reap();
  const Time patience = steady_clock::now() + kStatusPatience;
  while (!record_.wait_status && steady_clock::now() < patience) {
    std::this_thread::sleep_for(milliseconds(5));
    record_.wait_status = pod_->reap();
  }
  if (const Status destroyed = pod_->destroy(); !destroyed) log_error(destroyed.message());
  record_.ended = true;
  {
    const std::lock_guard lock(mutex_);
    if (record_.reason.empty() && ending_signal_ != 0) {
      record_.reason = by_signal(ending_signal_);
    }
  }
  if (const Status put = registry_.put(record_); !put) log_error(put.message());
  over(report_of(record_));
}

void PodWorker::forget() {
  std::unique_ptr<ExchangeFolder> exchange;
  {
    const std::lock_guard lock(mutex_);
    group_.clear();
    pidfd_.reset();
    living_.reset();
    exchange = std::move(exchange_);
  }
}

void PodWorker::answer_gone(const wire::Order& order) {
  // Who wants it gone, or rolled back, has what they want.
  const bool good = order.has_destroy() || order.has_roll_back();
  answer(order, good ? Status::ok()
                     : Status(Code::kGone, fmt::format("pod {} has ended", to_string(record_.id))));
}

void PodWorker::over(std::optional<wire::PodEnded> report) {
  over_ = true;
  forget();
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  // What came too late.
  const Time now = steady_clock::now();
  for (Wake wake = queue_.wait(-1, now); wake.kind != Wake::Kind::kDeadline;
       wake = queue_.wait(-1, now)) {
    if (wake.kind == Wake::Kind::kOrder) answer_gone(wake.order);
  }
  if (settings_.steps != nullptr && record_.stubs) {
    settings_.steps->pod_over(record_.id, record_.wait_status);
  }
  events_.over(record_.id, std::move(report));
}

}  // namespace fermata::node_agent
