#include "node-agent/engine/lazy_events.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "common/memory_image.h"
#include "common/unique_fd.h"

namespace fermata::engine {

namespace {

/// A map of our own, of which the kernel tells a userfaultfd that it is moved.
class Trial {
 public:
  Trial()
      : memory_(
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        events_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {}
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;
  ~Trial() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, kBytes);
  }

  /// The length that is told of two pages which become one as they move. 0: nothing was told.
  uint64_t told_length() {
    uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMAP, .ioctls = 0};
    uffdio_register range{.range = {reinterpret_cast<uint64_t>(memory_), 2 * kPageSize},
                          .mode = UFFDIO_REGISTER_MODE_MISSING,
                          .ioctls = 0};
    if (memory_ == MAP_FAILED || !events_ || ::ioctl(events_.get(), UFFDIO_API, &api) != 0 ||
        ::ioctl(events_.get(), UFFDIO_REGISTER, &range) != 0) {
      return 0;
    }
    try {
      // It waits until we have read of it, or have closed the descriptor.
      std::thread mover([this] {
        ::mremap(memory_, 2 * kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED,
                 static_cast<std::byte*>(memory_) + 2 * kPageSize);
      });
      const uint64_t length = read_length();
      events_ = UniqueFd();
      mover.join();
      return length;
    } catch (const std::system_error&) {
      return 0;
    }
  }

 private:
  static constexpr size_t kBytes = 4 * kPageSize;

  uint64_t read_length() const {
    constexpr int kPatienceMs = 1000;
    pollfd wait{.fd = events_.get(), .events = POLLIN, .revents = 0};
    uffd_msg message{};
    if (::poll(&wait, 1, kPatienceMs) != 1 ||
        ::read(events_.get(), &message, sizeof message) != sizeof message) {
      return 0;
    }
    return message.event == UFFD_EVENT_REMAP ? message.arg.remap.len : 0;
  }

  void* memory_;
  UniqueFd events_;
};

}  // namespace

bool LazyEvents::kernel_tells_moved_length() {
  static const bool tells = Trial().told_length() == kPageSize;
  return tells;
}

std::optional<LazyEvents::Event> LazyEvents::next() {
  if (queue_.empty()) return std::nullopt;
  if (queue_.front().kind == Event::Kind::kMove && !settle_move()) return std::nullopt;
  Event event = std::move(queue_.front());
  queue_.pop_front();
  if (told_ > 0) --told_;
  return event;
}

/// The first of the queue is a move: makes it what was done, and takes from behind it what is told
/// of the place it left. False: that has not been told yet.
bool LazyEvents::settle_move() {
  Event& move = queue_.front();
  const auto unmap_of = [](uint64_t start) {
    return
        [start](const Event& one) { return one.kind == Event::Kind::kUnmap && one.start == start; };
  };
  const auto left = std::find_if(queue_.begin() + 1, queue_.end(), unmap_of(move.start));
  if (left == queue_.end() || left->length > move.length) return told_ > 0;
  const uint64_t length = left->length;
  const auto cut_off = std::find_if(queue_.begin() + 1, left, unmap_of(move.start + length));
  if (length < move.length) {
    // Else the map stayed, and a part of it was unmapped since.
    const bool shrank =
        !tells_moved_length_ && cut_off != left && cut_off->length == move.length - length;
    if (!shrank) return true;
    move.length = length;
  }
  if (static_cast<size_t>(left - queue_.begin()) < told_) --told_;
  // It was done before another thread can have moved something there.
  if (cut_off != left) std::rotate(queue_.begin() + 1, cut_off, cut_off + 1);
  queue_.erase(left);
  return true;
}

}  // namespace fermata::engine
