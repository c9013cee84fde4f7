#include "node-agent/engine/socket_support.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

// Descriptors that a look at a message gave us: closed at once.
bool close_passed_descriptors(msghdr& message) {
  bool any = false;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    any = true;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      ::close(fd);
    }
  }
  return any;
}

pid_t sender_of(msghdr& message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_CREDENTIALS) continue;
    ucred credentials{};
    std::memcpy(&credentials, CMSG_DATA(part), sizeof credentials);
    return credentials.pid;
  }
  return 0;
}

struct Look {
  ssize_t size = -1;  // of the message, which may be more than fits
  QueuedMessage message;
  int flags = 0;
};

Result<Look> look(const FileProbe& probe, int fd, int flags, std::string& buffer) {
  Look result;
  sockaddr_storage source{};
  iovec vector{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<char, 4096> control{};
  msghdr message{};
  message.msg_name = &source;
  message.msg_namelen = sizeof source;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  result.size = ::recvmsg(fd, &message, flags | MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (result.size < 0) {
    if (errno == EAGAIN) return result;
    return errno_failure(errno, fmt::format("{}: looking at unread messages", probe.describe()));
  }
  if (close_passed_descriptors(message) || (message.msg_flags & MSG_CTRUNC) != 0) {
    return Failure(refuse(probe,
                          "a message with file descriptors (SCM_RIGHTS) is under way to it; try "
                          "again in a moment"));
  }
  result.flags = message.msg_flags;
  result.message.sender = sender_of(message);
  result.message.source.assign(reinterpret_cast<const char*>(&source), message.msg_namelen);
  if (message.msg_namelen <= sizeof(sa_family_t)) result.message.source.clear();
  const auto held = std::min(static_cast<size_t>(result.size), buffer.size());
  result.message.data.assign(buffer.data(), held);
  return result;
}

class PeekOffset {
 public:
  explicit PeekOffset(int fd) : fd_(fd), before_(socket_option(fd, SOL_SOCKET, SO_PEEK_OFF)) {
    set(0);
  }
  ~PeekOffset() { set(before_); }
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;

 private:
  void set(int value) { ::setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value); }
  int fd_;
  int before_;
};

}  // namespace

int socket_option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

Result<size_t> unread_bytes(int fd) {
  int bytes = 0;
  if (::ioctl(fd, SIOCINQ, &bytes) != 0) return errno_failure(errno, "SIOCINQ");
  return static_cast<size_t>(bytes);
}

Result<std::string> peek_stream(const FileProbe& probe, int fd) {
  FERMATA_ASSIGN(const size_t unread, unread_bytes(fd));
  // A look at an empty queue would take a pending error away from the program.
  if (unread == 0) return std::string();
  std::string buffer(unread, '\0');
  FERMATA_ASSIGN(Look seen, look(probe, fd, 0, buffer));
  if (seen.size != static_cast<ssize_t>(unread)) {
    return Failure(refuse_now(probe,
                              "the unread bytes cannot be looked at in one go (they come from "
                              "several senders, or urgent data is among them)"));
  }
  return std::move(seen.message.data);
}

Result<std::vector<QueuedMessage>> peek_messages(const FileProbe& probe, int fd) {
  std::vector<QueuedMessage> messages;
  pollfd ready{fd, POLLIN | POLLRDHUP, 0};
  if (::poll(&ready, 1, 0) < 0) return errno_failure(errno, probe.describe());
  if ((ready.revents & POLLIN) == 0) return messages;
  if ((ready.revents & POLLERR) != 0) {
    return Failure(refuse_now(probe,
                              "an error and messages wait to be read, and looking at the messages "
                              "would take the error away"));
  }
  const bool ended =
      (ready.revents & POLLRDHUP) != 0 && socket_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_SEQPACKET;
  // The longest message a socket holds is bounded by its sender's buffer; grown when one is longer.
  std::string buffer(1 << 18, '\0');
  // An empty message that was looked at once is not found by its offset again (skb->peeked), so the
  // first of the queue is looked at without one. At the end of a connection an empty message is
  // none.
  bool first_is_empty = false;
  if (!ended) {
    FERMATA_ASSIGN(const Look first, look(probe, fd, MSG_TRUNC, buffer));
    first_is_empty = first.size == 0;
    if (first_is_empty) messages.push_back(first.message);
  }
  const PeekOffset offset(fd);
  constexpr size_t kMost = 1 << 20;
  while (messages.size() < kMost) {
    FERMATA_ASSIGN(Look seen, look(probe, fd, MSG_TRUNC, buffer));
    if (seen.size < 0 || (seen.size == 0 && ended)) return messages;
    if ((seen.flags & MSG_TRUNC) != 0) {
      const int again = 0;
      ::setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &again, sizeof again);
      buffer.resize(static_cast<size_t>(seen.size) + buffer.size());
      // Empty ones would not be found again; the one at the head is known.
      if (std::any_of(messages.begin() + (first_is_empty ? 1 : 0), messages.end(),
                      [](const QueuedMessage& one) { return one.data.empty(); })) {
        return Failure(refuse_now(probe, "empty and very long messages wait to be read"));
      }
      messages.resize(first_is_empty ? 1 : 0);
      continue;
    }
    messages.push_back(std::move(seen.message));
  }
  return Failure(refuse(probe, "too many messages wait to be read"));
}

Result<UniqueFd> socket_in_pod(RebuildContext& context, int vpid, int domain, int type,
                               int protocol) {
  FERMATA_ASSIGN(Remote * remote, context.remote(vpid));
  FERMATA_ASSIGN(const long fd, remote->call(fmt::format("socket of family {}", domain), SYS_socket,
                                             {static_cast<uint64_t>(domain),
                                              static_cast<uint64_t>(type) | SOCK_CLOEXEC,
                                              static_cast<uint64_t>(protocol)}));
  FERMATA_ASSIGN(UniqueFd ours, remote->take_fd(static_cast<int>(fd)));
  FERMATA_ASSIGN([[maybe_unused]] const long closed,
                 remote->call("close", SYS_close, {static_cast<uint64_t>(fd)}));
  return ours;
}

Result<SocketPair> socketpair_in_pod(RebuildContext& context, int vpid, int domain, int type) {
  FERMATA_ASSIGN(Remote * remote, context.remote(vpid));
  const uint64_t place = remote->argument_address();
  FERMATA_ASSIGN([[maybe_unused]] const long made,
                 remote->call("socketpair", SYS_socketpair,
                              {static_cast<uint64_t>(domain),
                               static_cast<uint64_t>(type) | SOCK_CLOEXEC, 0, place}));
  std::array<int, 2> ends{};
  FERMATA_TRY_RESULT(remote->get(place, ends));
  SocketPair pair;
  FERMATA_ASSIGN(pair.first, remote->take_fd(ends[0]));
  FERMATA_ASSIGN(pair.second, remote->take_fd(ends[1]));
  for (const int end : ends) {
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   remote->call("close", SYS_close, {static_cast<uint64_t>(end)}));
  }
  return pair;
}

}  // namespace fermata::engine
