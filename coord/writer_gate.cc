#include "coord/writer_gate.h"

#include <algorithm>
#include <utility>

namespace fermata::coord {

WriterGate::WriterGate(size_t at_once) : at_once_(at_once) {
  if (at_once_ != 0) thread_ = std::jthread([this](const std::stop_token& stop) { let_in(stop); });
}

WriterGate::Place::Place(Place&& other) noexcept
    : gate_(std::exchange(other.gate_, nullptr)), number_(other.number_) {}

WriterGate::Place& WriterGate::Place::operator=(Place&& other) noexcept {
  std::swap(gate_, other.gate_);
  std::swap(number_, other.number_);
  return *this;
}

WriterGate::Place::~Place() {
  if (gate_ != nullptr) gate_->forget(number_);
}

WriterGate::Place WriterGate::enter(Start start) {
  if (at_once_ == 0) {
    start(nullptr);
    return {};
  }
  std::unique_lock lock(mutex_);
  const uint64_t number = ++last_;
  if (inside_ < at_once_ && queue_.empty()) {
    ++inside_;
    lock.unlock();
    start(std::make_shared<Pass>(*this));
  } else {
    queue_.push_back({number, std::move(start)});
  }
  return {this, number};
}

void WriterGate::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  changed_.notify_all();
}

void WriterGate::forget(uint64_t number) {
  const std::lock_guard lock(mutex_);
  std::erase_if(queue_, [&](const Waiting& waiting) { return waiting.number == number; });
}

void WriterGate::let_in(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !queue_.empty() && inside_ < at_once_; })) {
    const Start start = std::move(queue_.front().start);
    queue_.pop_front();
    ++inside_;
    lock.unlock();
    start(std::make_shared<Pass>(*this));
    lock.lock();
  }
}

}  // namespace fermata::coord
