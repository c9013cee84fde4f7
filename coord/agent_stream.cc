#include "coord/agent_stream.h"

#include <fmt/format.h>

#include <utility>

#include "common/log.h"

namespace fermata::coord {

AgentStream::AgentStream(StreamKeeper& keeper, FleetListener& listener, std::string peer)
    : keeper_(keeper), listener_(listener), peer_(std::move(peer)) {}

void AgentStream::begin(std::chrono::milliseconds hello_within) {
  self_ = shared_from_this();
  hello_alarm_.Set(
      std::chrono::system_clock::now() + hello_within, [weak = weak_from_this()](bool expired) {
        const auto stream = weak.lock();
        if (!expired || !stream) return;
        {
          const std::lock_guard lock(stream->queue_mutex_);
          if (stream->greeted_) return;
        }
        log_warning(fmt::format("an agent at {} connected and said no hello", stream->peer_));
        stream->end({grpc::StatusCode::DEADLINE_EXCEEDED, "no hello came"}, true);
      });
  StartRead(&incoming_);
}

Result<wire::Welcome> AgentStream::announce(const wire::Hello& hello) {
  const std::lock_guard events(events_);
  if (detached_) return failure(Code::kGone, "the stream ended while it was being accepted");
  auto welcome = listener_.agent_attached(hello);
  announced_ = welcome.has_value();
  return welcome;
}

void AgentStream::welcome(wire::Signed welcome) {
  auto message = std::make_unique<wire::ToAgent>();
  *message->mutable_welcome() = std::move(welcome);
  const std::lock_guard lock(queue_mutex_);
  if (finished_) return;
  queue_.push_front(std::move(message));
  welcomed_ = true;
  write_next();
  StartRead(&incoming_);
}

bool AgentStream::send(wire::Order order, Fleet::Answer& answer) {
  auto message = std::make_unique<wire::ToAgent>();
  *message->mutable_order() = std::move(order);
  const std::lock_guard lock(queue_mutex_);
  if (finished_) return false;
  const uint64_t id = ++last_order_;
  message->mutable_order()->set_id(id);
  open_.emplace(id, std::move(answer));
  queue(std::move(message));
  return true;
}

void AgentStream::tell(wire::ExchangeDown message) {
  auto out = std::make_unique<wire::ToAgent>();
  *out->mutable_exchange() = std::move(message);
  const std::lock_guard lock(queue_mutex_);
  if (!finished_) queue(std::move(out));
}

bool AgentStream::ended() const {
  const std::lock_guard lock(queue_mutex_);
  return finished_;
}

void AgentStream::queue(std::unique_ptr<wire::ToAgent> message) {
  queue_.push_back(std::move(message));
  write_next();
}

void AgentStream::write_next() {
  if (!welcomed_ || writing_ || finished_ || queue_.empty()) return;
  outgoing_ = std::move(queue_.front());
  queue_.pop_front();
  writing_ = true;
  grpc::WriteOptions options;
  // More follows at once: let them share a frame.
  if (!queue_.empty()) options.set_buffer_hint();
  StartWrite(outgoing_.get(), options);
}

void AgentStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(queue_mutex_);
  writing_ = false;
  outgoing_.reset();
  // A write that failed is a lost stream: the read that is under way ends, too, and tells.
  if (ok) write_next();
}

void AgentStream::OnReadDone(bool ok) {
  if (!ok) {
    end(grpc::Status::OK, true);
    return;
  }
  bool first = false;
  {
    const std::lock_guard lock(queue_mutex_);
    if (finished_) return;
    first = !std::exchange(greeted_, true);
  }
  if (first) {
    hello_alarm_.Cancel();
    keeper_.said_hello(shared_from_this(), std::move(*incoming_.mutable_hello()));
    return;
  }
  take(incoming_);
  const std::lock_guard lock(queue_mutex_);
  if (!finished_) StartRead(&incoming_);
}

void AgentStream::take(wire::FromAgent& message) {
  switch (message.kind_case()) {
    case wire::FromAgent::kDone: {
      Fleet::Answer answer;
      {
        const std::lock_guard lock(queue_mutex_);
        const auto found = open_.find(message.done().order());
        if (found == open_.end()) break;
        answer = std::move(found->second);
        open_.erase(found);
      }
      answer(std::move(*message.mutable_done()));
      break;
    }
    case wire::FromAgent::kEnded: {
      const std::lock_guard events(events_);
      if (!detached_) listener_.pod_ended(node_, message.ended());
      break;
    }
    case wire::FromAgent::kExchange: {
      const std::lock_guard events(events_);
      if (!detached_) listener_.exchange(node_, message.exchange());
      break;
    }
    case wire::FromAgent::kStep: {
      const std::lock_guard events(events_);
      if (!detached_) listener_.step_offered(node_, message.step());
      break;
    }
    case wire::FromAgent::kTerm: {
      const std::lock_guard events(events_);
      if (!detached_) listener_.term_held(node_, message.term());
      break;
    }
    default:
      log_warning(
          fmt::format("the agent on {} sent a message of no known kind; it is left out", node_));
  }
}

void AgentStream::end(const grpc::Status& status, bool report) {
  std::unordered_map<uint64_t, Fleet::Answer> open;
  {
    const std::lock_guard lock(queue_mutex_);
    // Who ends it first says whether the listener is told: the others may be here because of it.
    if (finished_) {
      report = report_;
    } else {
      finished_ = true;
      report_ = report;
      queue_.clear();
      open.swap(open_);
      Finish(status);
    }
  }
  for (auto& [id, answer] : open) {
    answer(failure(Code::kGone, fmt::format("the agent on {} is lost", node_)));
  }
  {
    const std::lock_guard events(events_);
    if (!std::exchange(detached_, true) && announced_ && report) listener_.agent_lost(node_);
  }
  keeper_.ended(*this);
}

void AgentStream::OnDone() { self_.reset(); }

}  // namespace fermata::coord
