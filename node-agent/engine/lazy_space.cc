#include "node-agent/engine/lazy_space.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace fermata::engine {
namespace {

using Event = LazyEvents::Event;

/// nullopt: an event that nobody asked for.
std::optional<Event> event_of(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_FORK:
      return Event{Event::Kind::kFork, 0, 0, 0, UniqueFd(static_cast<int>(message.arg.fork.ufd))};
    case UFFD_EVENT_REMAP: {
      const auto& moved = message.arg.remap;
      return Event{Event::Kind::kMove, moved.from, moved.len, moved.to};
    }
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP: {
      const auto& gone = message.arg.remove;
      const bool unmapped = message.event == UFFD_EVENT_UNMAP;
      return Event{unmapped ? Event::Kind::kUnmap : Event::Kind::kRemove, gone.start,
                   gone.end - gone.start};
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

Result<Put> LazySpace::put(uint64_t from, std::span<const std::byte> bytes) {
  if (gone_) return Put::kDone;
  if (unclear_) return Put::kLater;
  std::vector<MissingPages::Part> parts;
  {
    const std::lock_guard lock(mutex_);
    parts = missing_.parts_then(from, from + bytes.size());
  }
  for (const MissingPages::Part& part : parts) {
    FERMATA_ASSIGN(const Put put, put_part(part, bytes.data() + (part.then - from)));
    if (put != Put::kDone) return put;
  }
  return Put::kDone;
}

Status LazySpace::hear(std::vector<uint64_t>& faults,
                       const std::function<Status(UniqueFd)>& forked) {
  for (;;) {
    std::array<uffd_msg, 16> messages{};
    const ssize_t n = ::read(descriptor(), messages.data(), sizeof messages);
    if (n < 0 && errno == EAGAIN) return follow(forked);
    if (n <= 0) return errno_status(n == 0 ? EIO : errno, "reading page faults");
    for (size_t i = 0; i < static_cast<size_t>(n) / sizeof(uffd_msg); ++i) {
      const uffd_msg& message = messages.at(i);
      if (message.event == UFFD_EVENT_PAGEFAULT) {
        faults.push_back(message.arg.pagefault.address / kPageSize * kPageSize);
        continue;
      }
      std::optional<Event> event = event_of(message);
      if (!event) {
        return {Code::kInternal,
                fmt::format("userfaultfd: an event {} that is not known", message.event)};
      }
      events_.add(*std::move(event));
    }
  }
}

/// Does with what is missing as the program has done with its memory.
Status LazySpace::follow(const std::function<Status(UniqueFd)>& forked) {
  for (;;) {
    std::optional<Event> event = events_.next();
    if (!event && events_.waits() && !event_is_under_way()) {
      events_.all_told();
      event = events_.next();
    }
    unclear_ = !event && events_.waits();
    if (!event) return Status::ok();
    switch (event->kind) {
      case Event::Kind::kFork:
        FERMATA_TRY(forked(std::move(event->child)));
        continue;
      case Event::Kind::kMove:
        missing_.move(event->start, event->to, event->length);
        wake(event->to, event->length);
        break;
      default:
        missing_.remove(event->start, event->length);
    }
    wake(event->start, event->length);
  }
}

/// Whether one was not read yet, or has been and the program has not gone on.
/// userfaultfd_copy() of fs/userfaultfd.c looks at that first, then at the request: a copy of
/// nothing is EINVAL.
bool LazySpace::event_is_under_way() const {
  uffdio_copy nothing{};
  return ::ioctl(descriptor_.get(), UFFDIO_COPY, &nothing) != 0 && errno == EAGAIN;
}

void LazySpace::arrived(uint64_t now, uint64_t length) {
  const std::lock_guard lock(mutex_);
  missing_.remove(now, length);
}

/// UFFDIO_COPY; its errno, or 0. ENOENT: what was there is unmapped, and its event, if it has one,
/// was read before.
///
/// A move (mremap) counts as under way, EAGAIN, from before it moves anything until its event is
/// read, which nobody does while pages are put. But the kernel asks for that first, then looks for
/// the map, and asks again only if it found it (userfaultfd_copy, mfill_atomic; Linux 6.8): a move
/// between these says ENOENT. The second time the first question finds it.
int LazySpace::copy_here(uffdio_copy& copy) const {
  int error = 0;
  for (int times = 0; times < 2; ++times) {
    copy.copy = 0;
    if (::ioctl(descriptor_.get(), UFFDIO_COPY, &copy) == 0) return 0;
    error = errno;
    if (error != ENOENT) break;
  }
  return error;
}

Result<Put> LazySpace::put_part(const MissingPages::Part& part, const std::byte* bytes) {
  // A call stays in one map: the program may have split what was one.
  uint64_t step = part.length;
  for (uint64_t done = 0; done < part.length && !gone_;) {
    step = std::min(step, part.length - done);
    uffdio_copy copy{};
    copy.dst = part.now + done;
    copy.src = reinterpret_cast<uint64_t>(bytes + done);
    copy.len = step;
    const int error = copy_here(copy);
    if (error == 0) {
      arrived(copy.dst, step);
      done += step;
    } else if (error == EAGAIN) {
      const uint64_t some = copy.copy > 0 ? static_cast<uint64_t>(copy.copy) : 0;
      if (some == 0) return Put::kLater;
      arrived(copy.dst, some);
      done += some;
    } else if (error == ESRCH) {
      gone_ = true;
    } else if (step > kPageSize) {
      step = kPageSize;
    } else if (error == ENOENT || error == EEXIST) {
      // Not mapped any more (in a child: MADV_DONTFORK), or there.
      arrived(copy.dst, step);
      wake(copy.dst, step);
      done += step;
    } else {
      return errno_failure(error, fmt::format("putting a page at {:#x}", copy.dst));
    }
  }
  return Put::kDone;
}

Result<Put> LazySpace::put_zeros(uint64_t address) {
  uffdio_zeropage zeros{};
  zeros.range = {address, kPageSize};
  if (gone_ || ::ioctl(descriptor_.get(), UFFDIO_ZEROPAGE, &zeros) == 0) return Put::kDone;
  switch (errno) {
    case EAGAIN:
      return Put::kLater;
    case ESRCH:
      gone_ = true;
      return Put::kDone;
    case EEXIST:
    case ENOENT:
      wake(address, kPageSize);
      return Put::kDone;
    default:
      return errno_failure(errno, fmt::format("putting zeros at {:#x}", address));
  }
}

void LazySpace::wake(uint64_t address, uint64_t length) const {
  uffdio_range range{address, length};
  // Nobody waits, or nobody is there any more.
  (void)::ioctl(descriptor_.get(), UFFDIO_WAKE, &range);
}

namespace {

constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK;
constexpr const char* kDevice = "/dev/userfaultfd";

/// In the process, whose address space it is to be of, through a device of ours (Linux 6.1): at
/// this moment it may have no right to the call.
Result<long> make_userfaultfd(RebuildRemote& remote) {
  const UniqueFd device(::open(kDevice, O_RDWR | O_CLOEXEC));
  if (!device) return remote.call("userfaultfd", SYS_userfaultfd, {kFlags});
  FERMATA_ASSIGN(const int there, remote.give_fd(device.get(), -1, true));
  const auto number = static_cast<uint64_t>(there);
  Result<long> made = remote.call(kDevice, SYS_ioctl, {number, USERFAULTFD_IOC_NEW, kFlags});
  FERMATA_ASSIGN([[maybe_unused]] const long closed, remote.call("close", SYS_close, {number}));
  return made;
}

}  // namespace

Result<UniqueFd> open_lazy(RebuildRemote& remote, std::span<const Extent> maps) {
  constexpr uint64_t kEvents = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                               UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
  FERMATA_ASSIGN(const long made, make_userfaultfd(remote));
  Result<UniqueFd> ours = remote.take_fd(static_cast<int>(made));
  FERMATA_ASSIGN([[maybe_unused]] const long closed,
                 remote.call("close", SYS_close, {static_cast<uint64_t>(made)}));
  if (!ours) return ours;
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kEvents;
  if (::ioctl(ours->get(), UFFDIO_API, &api) != 0) {
    return errno_failure(errno, "userfaultfd with events (Linux 4.11)");
  }
  for (const Extent& map : maps) {
    uffdio_register request{};
    request.range = {map.address, map.length};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(ours->get(), UFFDIO_REGISTER, &request) != 0) {
      return errno_failure(errno, fmt::format("having the pages at {:#x} come later", map.address));
    }
  }
  return ours;
}

}  // namespace fermata::engine
