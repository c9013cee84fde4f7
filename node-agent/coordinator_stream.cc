#include "node-agent/coordinator_stream.h"

#include <utility>

namespace fermata::node_agent {

CoordinatorStream::CoordinatorStream(const std::shared_ptr<grpc::Channel>& channel, Events events)
    : stub_(wire::Coordinator::NewStub(channel)), events_(std::move(events)) {}

void CoordinatorStream::begin(std::optional<wire::FromAgent> hello) {
  stub_->async()->Attach(&context_, this);
  // Writes are started from outside of gRPC's reactions: the hold keeps OnDone() away until the
  // last read has ended, and with it every writer (broken_).
  AddHold();
  StartRead(&incoming_);
  if (hello) send(*std::move(hello));
  StartCall();
}

void CoordinatorStream::send(wire::FromAgent message) {
  const std::lock_guard lock(mutex_);
  if (broken_) return;
  queue_.push_back(std::move(message));
  write_next();
}

void CoordinatorStream::cancel() { context_.TryCancel(); }

void CoordinatorStream::write_next() {
  if (writing_ || broken_ || queue_.empty()) return;
  outgoing_ = std::move(queue_.front());
  queue_.pop_front();
  writing_ = true;
  grpc::WriteOptions options;
  if (!queue_.empty()) options.set_buffer_hint();
  StartWrite(&outgoing_, options);
}

void CoordinatorStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (ok) write_next();
}

void CoordinatorStream::OnReadDone(bool ok) {
  if (ok) {
    events_.message(std::move(incoming_));
    incoming_.Clear();
    StartRead(&incoming_);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    queue_.clear();
  }
  RemoveHold();
}

void CoordinatorStream::OnDone(const grpc::Status& status) {
  // Who hears of it may destroy this at once.
  const auto ended = std::move(events_.ended);
  ended(status);
}

}  // namespace fermata::node_agent
