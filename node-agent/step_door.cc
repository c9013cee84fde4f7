#include "node-agent/step_door.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "common/log.h"

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// A stub says who it is at once.
constexpr seconds kIntroduction{10};
// Of one user who is not root; a node's whole set of stubs may come back at one moment.
constexpr ptrdiff_t kMostStrangers = 512;
constexpr seconds kNoDescriptors{1};
constexpr seconds kTick{2};

/// One message and the descriptors with it; nullopt: who said it is gone.
std::optional<std::pair<StubFields, std::vector<UniqueFd>>> receive(int fd, bool with_files) {
  std::string text(kLongestStubMessage, '\0');
  alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control{};
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (with_files) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
  }
  const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return std::pair{StubFields{}, std::vector<UniqueFd>{}};
  }
  if (got <= 0) return std::nullopt;
  std::vector<UniqueFd> with;
  for (cmsghdr* header = with_files ? CMSG_FIRSTHDR(&message) : nullptr; header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int one = -1;
      memcpy(&one, CMSG_DATA(header) + i * sizeof one, sizeof one);
      with.emplace_back(one);
    }
  }
  text.resize(static_cast<size_t>(got));
  std::optional<StubFields> fields = decode_stub_fields(text);
  if (!fields) {
    close_elsewhere(std::move(with));
    return std::nullopt;
  }
  return std::pair{*std::move(fields), std::move(with)};
}

}  // namespace

void close_elsewhere(std::vector<UniqueFd> files) {
  if (files.empty()) return;
  try {
    std::thread([kept = std::move(files)]() mutable { kept.clear(); }).detach();
  } catch (const std::system_error&) {
    // No thread is to be had: they have been closed here.
  }
}

bool tell_stub(int fd, const StubFields& fields) {
  const std::string text = encode_stub_fields(fields);
  return send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(text.size());
}

bool stub_is_there(int fd) {
  pollfd one{fd, POLLRDHUP, 0};
  return poll(&one, 1, 0) >= 0 && (one.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)) == 0;
}

Result<std::unique_ptr<StepDoor>> StepDoor::open(const std::filesystem::path& socket) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!listener) return errno_failure(errno, "socket");
  if (socket.native().size() >= sizeof address.sun_path) {
    return failure(Code::kUsage,
                   fmt::format("{}: the path of a socket is too long", socket.native()));
  }
  memcpy(address.sun_path, socket.c_str(), socket.native().size() + 1);
  unlink(socket.c_str());
  // A user's stub comes back to an agent that was started anew; what it may say is checked.
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(socket.c_str(), 0666) != 0 || ::listen(listener.get(), SOMAXCONN) != 0) {
    return errno_failure(errno, socket.native());
  }
  std::unique_ptr<StepDoor> door(new StepDoor(std::move(listener)));
  if (!door->poll_ || !door->stop_) return errno_failure(errno, "an epoll and an eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = door->stop_.get();
  if (epoll_ctl(door->poll_.get(), EPOLL_CTL_ADD, door->stop_.get(), &event) != 0 ||
      !door->listen(true)) {
    return errno_failure(errno, "epoll_ctl");
  }
  return door;
}

StepDoor::StepDoor(UniqueFd listener)
    : listener_(std::move(listener)),
      poll_(epoll_create1(EPOLL_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC)) {}

StepDoor::~StepDoor() {
  if (stop_) (void)eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void StepDoor::begin(Events events) {
  events_ = std::move(events);
  next_tick_ = steady_clock::now() + kTick;
  thread_ = std::thread([this] { work(); });
}

bool StepDoor::listen(bool on) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = listener_.get();
  return epoll_ctl(poll_.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener_.get(), &event) == 0;
}

void StepDoor::work() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const Time now = steady_clock::now();
    const Time next = look_after(now);
    const int wait = next == Time::max()
                         ? -1
                         : static_cast<int>(std::chrono::ceil<milliseconds>(next - now).count());
    const int count = epoll_wait(poll_.get(), events.data(), static_cast<int>(events.size()), wait);
    for (int i = 0; i < count; ++i) {
      const int fd = events.at(static_cast<size_t>(i)).data.fd;
      if (fd == stop_.get()) return;
      if (fd == listener_.get()) {
        welcome();
      } else {
        hear(fd);
      }
    }
  }
}

/// What its time has come for; when to look again.
StepDoor::Time StepDoor::look_after(Time now) {
  Time next = Time::max();
  if (closed_) {
    if (now >= closed_until_ && listen(true)) closed_ = false;
    if (closed_) next = std::max(closed_until_, now + milliseconds(100));
  }
  std::vector<int> late;
  for (const auto& [fd, guest] : guests_) {
    if (guest.known) continue;
    if (now >= guest.since + kIntroduction) {
      late.push_back(fd);
    } else {
      next = std::min(next, guest.since + kIntroduction);
    }
  }
  for (const int fd : late) part(fd);
  if (ticks_) {
    if (now >= next_tick_) {
      ticks_ = events_.time_passed();
      next_tick_ = now + kTick;
    }
    if (ticks_) next = std::min(next, next_tick_);
  }
  return next;
}

void StepDoor::welcome() {
  UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
    log_warning(fmt::format("no stub can be welcomed for a second: {}", strerror(errno)));
    if (listen(false)) {
      closed_ = true;
      closed_until_ = steady_clock::now() + kNoDescriptors;
    }
    return;
  }
  ucred who{};
  socklen_t length = sizeof who;
  if (!fd || getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) return;
  const auto strangers = std::count_if(guests_.begin(), guests_.end(), [&](const auto& one) {
    return !one.second.known && one.second.uid == who.uid;
  });
  if (who.uid != 0 && strangers >= kMostStrangers) return;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd.get();
  if (epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) return;
  const int number = fd.get();
  guests_[number] = Guest{std::move(fd), who.pid, who.uid, false, steady_clock::now()};
}

void StepDoor::hear(int fd) {
  const auto found = guests_.find(fd);
  if (found == guests_.end()) return;
  Guest& guest = found->second;
  auto said = receive(fd, guest.uid == 0);
  if (!said) return part(fd);
  if (said->first.empty()) return;
  guest.known =
      events_.said({fd, guest.pid, guest.uid, std::move(said->first), std::move(said->second)});
  if (!guest.known) part(fd);
}

void StepDoor::part(int fd) {
  events_.left(fd);
  guests_.erase(fd);
}

}  // namespace fermata::node_agent
