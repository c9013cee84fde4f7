#include "node-agent/pod/podinit/mailbox.h"

#include <sys/eventfd.h>

#include <utility>

namespace fermata::pod {

Mailbox::Mailbox() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Mailbox::post(Message message) {
  {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
  }
  // Fails only when the counter is full: then the loop is awake anyway.
  (void)eventfd_write(event_.get(), 1);
}

void Mailbox::call(std::function<void()> function) {
  Message message;
  message.kind = Message::Kind::kCall;
  message.call = std::move(function);
  post(std::move(message));
}

std::vector<Message> Mailbox::take() {
  eventfd_t count = 0;
  (void)eventfd_read(event_.get(), &count);  // EAGAIN: nothing was posted since
  const std::lock_guard lock(mutex_);
  return std::exchange(messages_, {});
}

}  // namespace fermata::pod
