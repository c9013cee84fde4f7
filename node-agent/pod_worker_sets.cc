// The phases of a set, and what else is asked of a pod that runs.
#include <fmt/format.h>

#include <algorithm>

#include "common/log.h"
#include "node-agent/pod/outer_groups.h"
#include "node-agent/pod_worker.h"
#include "node-agent/set_phase.h"

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// How long processes have to stop.
constexpr seconds kFreezeDeadline{10};
// Between two phases, where nobody is held up by the wait: others write, or wait to.
constexpr std::chrono::hours kBarrier{12};
// For the other pods of a set to join as well. By then they have, unless the next phase says so
// before.
constexpr milliseconds kOthersJoin{100};
// For the exchange's thread to come back from the file system.
constexpr seconds kHoldPatience{5};

template <typename Duration>
milliseconds left_until(std::chrono::time_point<steady_clock, Duration> deadline) {
  return std::max(std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now()),
                  milliseconds(0));
}

}  // namespace

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
  report.set_held_ns(static_cast<uint64_t>(numbers.held.count()));
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

}  // namespace fermata::node_agent
