#include "coord/remote_agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "coord/set_protocol.h"
#include "coord/wire.h"
#include "proto/outcome.h"

namespace fermata::coord {

/// One answer on its way. Every order has its own, so that a late answer to one is not taken for
/// that to the next.
struct RemoteAgent::Waiting {
  std::mutex mutex;
  std::condition_variable_any arrived;
  std::optional<Result<wire::Done>> answer;
  /// Of an order that waits for its turn: when that came.
  bool queues = false;
  std::optional<Time> turn;
  Time asked;
};

namespace {

/// Less than an agent waits between two phases.
constexpr std::chrono::hours kLongestQueue{11};

/// In nanoseconds. Not 0, which is no limit: what is late fails at once.
uint64_t timeout_until(Time deadline) {
  const Duration left = deadline - std::chrono::steady_clock::now();
  return static_cast<uint64_t>(std::max(left, Duration{1}).count());
}

wire::Order new_order(const PodId& pod, Time deadline) {
  wire::Order order;
  *order.mutable_pod() = to_wire(pod);
  order.set_timeout_ns(timeout_until(deadline));
  return order;
}

}  // namespace

RemoteAgent::RemoteAgent(Fleet& fleet, WriterGate& gate, std::string node, const PodId& pod,
                         std::stop_token give_up)
    : fleet_(fleet), gate_(gate), node_(std::move(node)), pod_(pod), give_up_(std::move(give_up)) {}

Fleet::Answer RemoteAgent::expect() {
  waiting_ = std::make_shared<Waiting>();
  return [waiting = waiting_](Result<wire::Done> done) {
    const std::lock_guard lock(waiting->mutex);
    waiting->answer = std::move(done);
    waiting->arrived.notify_all();
  };
}

Result<wire::Done> RemoteAgent::receive(Time deadline, const std::stop_token& give_up) {
  std::unique_lock lock(waiting_->mutex);
  waiting_->arrived.wait_until(lock, give_up, deadline,
                               [&] { return waiting_->answer.has_value(); });
  if (!waiting_->answer) {
    if (give_up.stop_requested()) return failure(Code::kGone, "given up");
    return failure(Code::kTimeout, "did not answer in time");
  }
  FERMATA_ASSIGN(wire::Done done, std::move(*waiting_->answer));
  FERMATA_TRY_RESULT(wire::to_status(done.outcome()));
  return done;
}

void RemoteAgent::begin(Phase phase, const SetOrder& order, Time deadline) {
  wire::Order out = new_order(pod_, deadline);
  wire::PhaseOrder& what = *out.mutable_phase();
  what.set_phase(static_cast<uint32_t>(phase));
  what.set_crid(order.crid.value);
  what.set_parent(order.parent.value);
  what.set_folder(order.folder.string());
  what.set_end_job(order.end_job);
  what.set_track(order.track);
  what.set_compress(order.compress);
  Fleet::Answer answer = expect();
  if (phase != Phase::kWriteBack) {
    fleet_.send(node_, std::move(out), std::move(answer));
    return;
  }
  // The pass goes with the answer: whoever misses the deadline writes on until it says so.
  // Its time begins with it: that others write long is no failure of this pod's.
  waiting_->queues = true;
  waiting_->asked = std::chrono::steady_clock::now();
  place_ =
      gate_.enter([&fleet = fleet_, node = node_, out = std::move(out), answer = std::move(answer),
                   waiting = waiting_](std::shared_ptr<WriterGate::Pass> pass) mutable {
        {
          const std::lock_guard lock(waiting->mutex);
          waiting->turn = std::chrono::steady_clock::now();
          waiting->arrived.notify_all();
        }
        fleet.send(node, std::move(out),
                   [answer = std::move(answer), pass = std::move(pass)](Result<wire::Done> done) {
                     answer(std::move(done));
                   });
      });
}

Result<Duration> RemoteAgent::wait_for_turn() {
  std::unique_lock lock(waiting_->mutex);
  if (!waiting_->queues) return Duration{};
  waiting_->arrived.wait_for(lock, give_up_, kLongestQueue,
                             [&] { return waiting_->turn.has_value(); });
  if (waiting_->turn) return *waiting_->turn - waiting_->asked;
  if (give_up_.stop_requested()) return failure(Code::kGone, "given up");
  return failure(Code::kTimeout, "had to wait too long until it might write");
}

Result<AgentReport> RemoteAgent::await(Time deadline) {
  FERMATA_ASSIGN(known_.queued, wait_for_turn());
  FERMATA_ASSIGN(const wire::Done done, receive(deadline + known_.queued, give_up_));
  if (done.has_report()) {
    const wire::PodReport& report = done.report();
    known_.memory_bytes = report.memory_bytes();
    known_.image_bytes = report.image_bytes();
    known_.stand_still = std::chrono::nanoseconds(report.stand_still_ns());
    known_.held = std::chrono::nanoseconds(report.held_ns());
    known_.copied = report.copied();
    known_.snapshot = report.snapshot();
    known_.parent = Crid{report.parent()};
    known_.track = report.track();
    known_.image = report.image();
    known_.digest = report.digest();
    known_.time = report.time();
  }
  known_.took = std::chrono::nanoseconds(done.took_ns());
  known_.connections = {done.connections().begin(), done.connections().end()};
  return known_;
}

void RemoteAgent::roll_back(const SetOrder& order) {
  place_ = {};
  wire::Order out = new_order(pod_, std::chrono::steady_clock::now() + Deadlines{}.ending);
  out.mutable_roll_back()->set_crid(order.crid.value);
  fleet_.send(node_, std::move(out), expect());
}

void RemoteAgent::await_roll_back(Time deadline) {
  // Also when the rest was given up: files that it writes until then are removed after it. Nobody
  // needs to be told: an agent that does not hear of it rolls back by itself, and says so in its
  // log where it cannot.
  [[maybe_unused]] const Result<wire::Done> done = receive(deadline, {});
}

void RemoteAgent::end_job(const SetOrder& order) {
  wire::Order out = new_order(pod_, std::chrono::steady_clock::now() + Deadlines{}.ending);
  out.mutable_end_job()->set_crid(order.crid.value);
  fleet_.send(node_, std::move(out), expect());
}

Status RemoteAgent::await_end(Time deadline) {
  // Also when the rest was given up: the set is committed.
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const wire::Done done, receive(deadline, {}));
  return Status::ok();
}

}  // namespace fermata::coord
