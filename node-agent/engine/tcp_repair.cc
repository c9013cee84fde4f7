#include "node-agent/engine/tcp_repair.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/unique_fd.h"
#include "node-agent/engine/socket_options.h"

namespace fermata::engine {
namespace {

enum Queue : int { kNoQueue = TCP_NO_QUEUE, kReceive = TCP_RECV_QUEUE, kSend = TCP_SEND_QUEUE };

// TCP option kinds, as TCP_REPAIR_OPTIONS takes them (RFC 9293, 7323, 2018).
constexpr uint32_t kMaxSegment = 2;
constexpr uint32_t kWindowScale = 3;
constexpr uint32_t kSackPermitted = 4;
constexpr uint32_t kTimestamps = 8;
// Both ends use it: windows up to 64 MiB.
constexpr uint32_t kScale = 10;

int set_int(int fd, int name, int value) {
  return ::setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value) == 0 ? 0 : errno;
}

int get_int(int fd, int level, int name, int& value) {
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? 0 : errno;
}

// Leaves repair mode without a packet. Entering it made the socket ignore address conflicts and
// leaving it clears SO_REUSEADDR (net/ipv4/tcp.c), which is put back.
int leave_repair(int fd, int reuse) {
  set_int(fd, TCP_REPAIR_QUEUE, kNoQueue);
  int error = set_int(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
  if (error != 0) error = set_int(fd, TCP_REPAIR, TCP_REPAIR_OFF);
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  return error;
}

class RepairMode {
 public:
  explicit RepairMode(int fd) : fd_(fd) {
    get_int(fd_, SOL_SOCKET, SO_REUSEADDR, reuse_);
    error_ = set_int(fd_, TCP_REPAIR, TCP_REPAIR_ON);
  }
  ~RepairMode() { leave(); }
  RepairMode(const RepairMode&) = delete;
  RepairMode& operator=(const RepairMode&) = delete;

  int error() const { return error_; }
  void leave() {
    if (fd_ >= 0 && error_ == 0) leave_repair(fd_, reuse_);
    fd_ = -1;
  }

 private:
  int fd_;
  int reuse_ = 0;
  int error_ = 0;
};

// What the reading process finds of one direction, in memory shared with it.
struct Reading {
  int sender;
  int receiver;
  int sender_reuse;
  int receiver_reuse;
  uint32_t capacity;
  // Found:
  int error;
  uint32_t length;
  uint32_t write_seq;
  uint32_t receive_next;
  int queue_before;
  int queue_after;
};

// System calls only: this runs in a fork of a process that may have other threads.
void read_one(Reading& reading, char* buffer) {
  int error = set_int(reading.sender, TCP_REPAIR, TCP_REPAIR_ON);
  if (error == 0) {
    int sequence = 0;
    error = set_int(reading.sender, TCP_REPAIR_QUEUE, kSend);
    if (error == 0) error = get_int(reading.sender, IPPROTO_TCP, TCP_QUEUE_SEQ, sequence);
    if (error == 0) {
      // In repair mode this reads the send queue (net/ipv4/tcp.c, tcp_peek_sndq); it wants room for
      // all.
      const ssize_t n = ::recv(reading.sender, buffer, reading.capacity, MSG_PEEK | MSG_DONTWAIT);
      error = n < 0 && errno != EAGAIN ? errno : 0;
      reading.length = n > 0 ? static_cast<uint32_t>(n) : 0;
    }
    reading.write_seq = static_cast<uint32_t>(sequence);
    const int left = leave_repair(reading.sender, reading.sender_reuse);
    if (error == 0) error = left;
  }
  if (error == 0) error = set_int(reading.receiver, TCP_REPAIR, TCP_REPAIR_ON);
  if (error == 0) {
    int sequence = 0;
    ::ioctl(reading.receiver, SIOCINQ, &reading.queue_before);
    error = set_int(reading.receiver, TCP_REPAIR_QUEUE, kReceive);
    if (error == 0) error = get_int(reading.receiver, IPPROTO_TCP, TCP_QUEUE_SEQ, sequence);
    ::ioctl(reading.receiver, SIOCINQ, &reading.queue_after);
    reading.receive_next = static_cast<uint32_t>(sequence);
    const int left = leave_repair(reading.receiver, reading.receiver_reuse);
    if (error == 0) error = left;
  }
  reading.error = error;
}

class SharedArea {
 public:
  static Result<SharedArea> make(size_t size) {
    void* area = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (area == MAP_FAILED) return errno_failure(errno, fmt::format("{} bytes of memory", size));
    return SharedArea(static_cast<char*>(area), size);
  }
  SharedArea(SharedArea&& other) noexcept
      : area_(std::exchange(other.area_, nullptr)), size_(other.size_) {}
  SharedArea& operator=(SharedArea&&) = delete;
  ~SharedArea() {
    if (area_ != nullptr) ::munmap(area_, size_);
  }
  char* at(size_t offset) { return area_ + offset; }

 private:
  SharedArea(char* area, size_t size) : area_(area), size_(size) {}
  char* area_;
  size_t size_;
};

// Runs read_one for all in a process of its own and waits for it.
Status read_apart(std::span<Reading> readings, const std::vector<char*>& buffers) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  // No exit signal: nobody who waits for children of this process sees it (clone(2), __WALL).
  const auto child =
      static_cast<pid_t>(::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    ::syscall(SYS_setsid);
    for (size_t i = 0; i < readings.size(); ++i) read_one(readings[i], buffers[i]);
    ::syscall(SYS_exit_group, 0);
  }
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return errno_status(clone_error, "a process to read TCP send queues in");
  int status = 0;
  while (::waitpid(child, &status, __WALL) < 0 && errno == EINTR) {
  }
  if (status == 0) return Status::ok();
  for (const Reading& reading : readings) {
    leave_repair(reading.sender, reading.sender_reuse);
    leave_repair(reading.receiver, reading.receiver_reuse);
  }
  return {Code::kInternal, "the process that reads TCP send queues was killed; try again"};
}

Status evaluate(const Reading& reading, const char* buffer, Direction& direction) {
  if (reading.error != 0) return errno_status(reading.error, "reading a TCP send queue");
  const uint32_t fin = direction.fin_queued ? 1 : 0;
  const uint32_t first =
      reading.write_seq - fin - reading.length;         // of the first byte in the buffer
  const uint32_t there = reading.receive_next - first;  // bytes of it the receiver has
  if (reading.queue_before != reading.queue_after || there > reading.length + fin) {
    return {Code::kBusy, "a TCP connection moved while it was read"};
  }
  const uint32_t skip = std::min(there, reading.length);
  direction.unreceived.assign(buffer + skip, reading.length - skip);
  direction.receiver_queue = static_cast<uint32_t>(reading.queue_after);
  return Status::ok();
}

uint32_t random_sequence() {
  uint32_t value = 0;
  if (::getrandom(&value, sizeof value, GRND_NONBLOCK) != sizeof value) value = 0x5eed;
  return value;
}

Status tcp_status(int error, std::string_view what, const ConnectionEnd& end) {
  return errno_status(error, fmt::format("{} of TCP socket {}", what, end.local.text()));
}

Status set_sequence(const ConnectionEnd& end, Queue queue, uint32_t sequence) {
  int error = set_int(end.fd, TCP_REPAIR_QUEUE, queue);
  if (error == 0) error = set_int(end.fd, TCP_QUEUE_SEQ, static_cast<int>(sequence));
  return error == 0 ? Status::ok() : tcp_status(error, "sequence number", end);
}

// bind, sequence numbers, connect: in this order, as numbers can be set only while the socket is
// closed.
Status establish(const ConnectionEnd& end, const InetAddress& remote, uint32_t send_next,
                 uint32_t receive_first) {
  FERMATA_TRY(set_sequence(end, kReceive, receive_first));
  FERMATA_TRY(set_sequence(end, kSend, send_next));
  // A socket that failed to connect before keeps its address.
  FERMATA_ASSIGN_STATUS(const InetAddress bound, InetAddress::local_of(end.fd));
  if (bound.port() != end.local.port() &&
      ::bind(end.fd, end.local.get(), end.local.length()) != 0) {
    return tcp_status(errno, "bind", end);
  }
  if (::connect(end.fd, remote.get(), remote.length()) != 0) {
    return tcp_status(errno, fmt::format("connection to {}", remote.text()), end);
  }
  return Status::ok();
}

// What the two ends would have agreed upon when they connected.
Status agree_on_options(const ConnectionEnd& end) {
  int mtu = 0;
  const bool v4 = end.local.family() == AF_INET;
  if (const int error = v4 ? get_int(end.fd, IPPROTO_IP, IP_MTU, mtu)
                           : get_int(end.fd, IPPROTO_IPV6, IPV6_MTU, mtu);
      error != 0) {
    // An IPv6 socket with IPv4-mapped addresses has no IPV6_MTU.
    if (get_int(end.fd, IPPROTO_IP, IP_MTU, mtu) != 0) return tcp_status(error, "path MTU", end);
  }
  const auto segment = static_cast<uint32_t>(std::clamp(mtu - (v4 ? 40 : 60), 536, 65495));
  const std::array<tcp_repair_opt, 4> options{{{kMaxSegment, segment},
                                               {kWindowScale, kScale | kScale << 16},
                                               {kSackPermitted, 0},
                                               {kTimestamps, 0}}};
  if (::setsockopt(end.fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(), sizeof options) != 0) {
    return tcp_status(errno, "options", end);
  }
  return Status::ok();
}

Status push_received(const ConnectionEnd& end) {
  if (end.received.empty()) return Status::ok();
  FERMATA_TRY(make_room(end.fd, 0, end.received.size()));
  if (const int error = set_int(end.fd, TCP_REPAIR_QUEUE, kReceive); error != 0) {
    return tcp_status(error, "receive queue", end);
  }
  constexpr size_t kAtOnce = 64 << 10;
  for (size_t at = 0; at < end.received.size();) {
    const size_t size = std::min(kAtOnce, end.received.size() - at);
    const ssize_t n = ::send(end.fd, end.received.data() + at, size, 0);
    if (n <= 0) return tcp_status(n == 0 ? EIO : errno, "receive queue", end);
    at += static_cast<size_t>(n);
  }
  return Status::ok();
}

Result<tcp_repair_window> window_of(const ConnectionEnd& end) {
  tcp_repair_window window{};
  socklen_t size = sizeof window;
  if (::getsockopt(end.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &size) != 0) {
    return Failure(tcp_status(errno, "window", end));
  }
  int buffer = 0;
  get_int(end.fd, SOL_SOCKET, SO_RCVBUF, buffer);
  // No more than there is room for; the rest is offered when the program reads.
  const auto room = static_cast<uint32_t>(buffer) / 2;
  const auto used = static_cast<uint32_t>(end.received.size());
  window.rcv_wnd = std::min(window.rcv_wnd, room > used ? room - used : 0);
  return window;
}

Status set_windows(const ConnectionEnd& end, tcp_repair_window own, const tcp_repair_window& peer,
                   uint32_t receive_next) {
  own.rcv_wup = receive_next;
  own.snd_wl1 = receive_next;
  own.snd_wnd = peer.rcv_wnd;
  own.max_window = std::max(peer.rcv_wnd, own.max_window);
  if (::setsockopt(end.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &own, sizeof own) != 0) {
    return tcp_status(errno, "window", end);
  }
  return Status::ok();
}

// Back to an unconnected socket, without a packet (in repair mode); the error this leaves is taken
// off.
void disconnect(int fd) {
  const sockaddr nowhere{AF_UNSPEC, {}};
  int ignored = 0;
  ::connect(fd, &nowhere, sizeof nowhere);
  get_int(fd, SOL_SOCKET, SO_ERROR, ignored);
}

Status join(const ConnectionEnd& a, const ConnectionEnd& b) {
  const uint32_t sent_by_a = random_sequence();
  const uint32_t sent_by_b = random_sequence();
  const auto queued_at_a = static_cast<uint32_t>(a.received.size());
  const auto queued_at_b = static_cast<uint32_t>(b.received.size());
  FERMATA_TRY(establish(a, b.local, sent_by_a, sent_by_b - queued_at_a));
  FERMATA_TRY(establish(b, a.local, sent_by_b, sent_by_a - queued_at_b));
  for (const ConnectionEnd* end : {&a, &b}) {
    FERMATA_TRY(agree_on_options(*end));
    FERMATA_TRY(push_received(*end));
  }
  FERMATA_ASSIGN_STATUS(const tcp_repair_window window_a, window_of(a));
  FERMATA_ASSIGN_STATUS(const tcp_repair_window window_b, window_of(b));
  FERMATA_TRY(set_windows(a, window_a, window_b, sent_by_b));
  return set_windows(b, window_b, window_a, sent_by_a);
}

}  // namespace

Status read_send_queues(std::span<Direction> directions) {
  constexpr size_t kSpare = 4096;
  std::vector<size_t> offsets;
  size_t size = sizeof(Reading) * directions.size();
  std::vector<Reading> plan;
  for (const Direction& direction : directions) {
    Reading reading{};
    reading.sender = direction.sender;
    reading.receiver = direction.receiver;
    int queued = 0;
    if (::ioctl(direction.sender, SIOCOUTQ, &queued) != 0) return errno_status(errno, "SIOCOUTQ");
    reading.capacity = static_cast<uint32_t>(queued) + kSpare;
    get_int(direction.sender, SOL_SOCKET, SO_REUSEADDR, reading.sender_reuse);
    get_int(direction.receiver, SOL_SOCKET, SO_REUSEADDR, reading.receiver_reuse);
    reading.error = EINTR;  // until it was read
    plan.push_back(reading);
    offsets.push_back(size);
    size += reading.capacity;
  }
  FERMATA_ASSIGN_STATUS(SharedArea area, SharedArea::make(size));
  auto* readings = reinterpret_cast<Reading*>(area.at(0));
  std::copy(plan.begin(), plan.end(), readings);
  std::vector<char*> buffers;
  for (const size_t offset : offsets) buffers.push_back(area.at(offset));
  FERMATA_TRY(read_apart(std::span(readings, plan.size()), buffers));
  for (size_t i = 0; i < directions.size(); ++i) {
    FERMATA_TRY(evaluate(readings[i], buffers[i], directions[i]));
  }
  return Status::ok();
}

Status connect_pair(const ConnectionEnd& a, const ConnectionEnd& b) {
  RepairMode repair_a(a.fd);
  if (repair_a.error() != 0) return tcp_status(repair_a.error(), "TCP_REPAIR", a);
  RepairMode repair_b(b.fd);
  if (repair_b.error() != 0) return tcp_status(repair_b.error(), "TCP_REPAIR", b);
  Status status = join(a, b);
  if (!status) {
    disconnect(a.fd);
    disconnect(b.fd);
  }
  return status;
}

Status bind_beside_others(int fd, const InetAddress& address) {
  const RepairMode repair(fd);
  if (repair.error() != 0) return errno_status(repair.error(), "TCP_REPAIR");
  if (::bind(fd, address.get(), address.length()) != 0) {
    return errno_status(errno, fmt::format("bind to {}", address.text()));
  }
  return Status::ok();
}

}  // namespace fermata::engine
