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
#include "proto/outcome.h"

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// An order without a time of its own.
constexpr std::chrono::minutes kLongOrder{10};
// For who waits for the orphan's end to tell how it was.
constexpr seconds kStatusPatience{2};
constexpr seconds kStopGoesOn{5};

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
        // Without us the pod would be ended.
        if (lazy_ && settings_.stop_goes_on) {
          lazy_->wait_while_it_comes(kStopGoesOn, settings_.stop_goes_on);
        }
        lazy_.reset();
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
  no_more_memory();
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
  no_more_memory();
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
