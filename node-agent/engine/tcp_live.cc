#include "node-agent/engine/tcp_live.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <type_traits>
#include <utility>

#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_repair.h"

namespace fermata::engine {
namespace {

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

// One socket in repair mode for as long as a reading takes; what is found, in memory shared with
// the process that reads. `error` is EINTR until it was read.
struct Socket {
  int fd = -1;
  int reuse = 0;
};

struct SendQueue {
  Socket socket;
  uint32_t capacity = 0;
  uint32_t length = 0;
  uint32_t write_next = 0;
  int unsent = 0;
};

struct ReceiveQueue {
  Socket socket;
  uint32_t next = 0;
  int before = 0;
  int after = 0;
};

struct DirectionReading {
  int error = EINTR;
  SendQueue sender;
  ReceiveQueue receiver;
};

struct WireReading {
  int error = EINTR;
  SendQueue sender;
  ReceiveQueue receiver;
  uint32_t segment = 0;
  tcp_repair_window window{};
};

Socket socket_of(int fd) { return {fd, std::max(0, socket_option(fd, SOL_SOCKET, SO_REUSEADDR))}; }

Result<SendQueue> send_queue_of(int fd) {
  constexpr uint32_t kSpare = 4096;
  SendQueue queue{socket_of(fd)};
  int queued = 0;
  if (::ioctl(fd, SIOCOUTQ, &queued) != 0) return errno_failure(errno, "SIOCOUTQ");
  queue.capacity = static_cast<uint32_t>(queued) + kSpare;
  return queue;
}

// From here to run_apart(): system calls only, in a fork of a process that may have other threads.

int read_number(int fd, RepairQueue queue, uint32_t& number) {
  int value = 0;
  int error = set_tcp_int(fd, TCP_REPAIR_QUEUE, static_cast<int>(queue));
  if (error == 0) error = get_tcp_int(fd, TCP_QUEUE_SEQ, value);
  number = static_cast<uint32_t>(value);
  return error;
}

int read_send_queue(SendQueue& queue, char* buffer) {
  const int fd = queue.socket.fd;
  if (const int error = read_number(fd, RepairQueue::kSend, queue.write_next); error != 0) {
    return error;
  }
  // In repair mode this reads the send queue (net/ipv4/tcp.c, tcp_peek_sndq); it wants room for
  // all.
  const ssize_t n = ::recv(fd, buffer, queue.capacity, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && errno != EAGAIN) return errno;
  queue.length = n > 0 ? static_cast<uint32_t>(n) : 0;
  // The reader of an agent that died may have ended repair mode meanwhile; then that was the other
  // queue.
  int repair = 0;
  if (const int error = get_tcp_int(fd, TCP_REPAIR, repair); error != 0) return error;
  if (repair == 0) return EAGAIN;
  return ::ioctl(fd, SIOCOUTQNSD, &queue.unsent) == 0 ? 0 : errno;
}

int read_receive_queue(ReceiveQueue& queue) {
  const int fd = queue.socket.fd;
  ::ioctl(fd, SIOCINQ, &queue.before);
  const int error = read_number(fd, RepairQueue::kReceive, queue.next);
  ::ioctl(fd, SIOCINQ, &queue.after);
  return error;
}

int finish(const Socket& socket, int error) {
  const int left = leave_repair(socket.fd, socket.reuse);
  if (error == EPERM) return EAGAIN;  // repair mode was entered, and somebody ended it
  return error == 0 ? left : error;
}

void read(DirectionReading& reading, char* buffer) {
  SendQueue& sender = reading.sender;
  ReceiveQueue& receiver = reading.receiver;
  int error = set_tcp_int(sender.socket.fd, TCP_REPAIR, TCP_REPAIR_ON);
  if (error == 0) error = finish(sender.socket, read_send_queue(sender, buffer));
  if (error == 0) error = set_tcp_int(receiver.socket.fd, TCP_REPAIR, TCP_REPAIR_ON);
  if (error == 0) error = finish(receiver.socket, read_receive_queue(receiver));
  reading.error = error;
}

void read(WireReading& reading, char* buffer) {
  const Socket& socket = reading.sender.socket;
  int error = set_tcp_int(socket.fd, TCP_REPAIR, TCP_REPAIR_ON);
  if (error == 0) {
    error = read_send_queue(reading.sender, buffer);
    if (error == 0) error = read_receive_queue(reading.receiver);
    int segment = 0;
    if (error == 0) error = get_tcp_int(socket.fd, TCP_MAXSEG, segment);
    reading.segment = static_cast<uint32_t>(segment);
    socklen_t size = sizeof reading.window;
    if (error == 0 &&
        ::getsockopt(socket.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &reading.window, &size) != 0) {
      error = errno;
    }
    error = finish(socket, error);
  }
  reading.error = error;
}

// Runs `work` in a process of its own and waits for it.
Status run_apart(const std::function<void()>& work, const std::function<void()>& if_killed) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  // No exit signal: nobody who waits for children of this process sees it (clone(2), __WALL).
  const auto child =
      static_cast<pid_t>(::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    ::syscall(SYS_setsid);
    work();
    ::syscall(SYS_exit_group, 0);
  }
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return errno_status(clone_error, "a process to read TCP queues in");
  int status = 0;
  while (::waitpid(child, &status, __WALL) < 0 && errno == EINTR) {
  }
  if (status == 0) return Status::ok();
  if_killed();
  return {Code::kInternal, "the process that reads TCP queues was killed; try again"};
}

// Reads all of `plan` apart; hands each reading with its buffer to `each`.
template <typename Reading>
Status read_all(const std::vector<Reading>& plan,
                const std::function<Status(size_t, const Reading&, const char*)>& each) {
  static_assert(std::is_trivially_copyable_v<Reading>);
  std::vector<size_t> offsets;
  size_t size = sizeof(Reading) * plan.size();
  for (const Reading& reading : plan) {
    offsets.push_back(size);
    size += reading.sender.capacity;
  }
  if (plan.empty()) return Status::ok();
  FERMATA_ASSIGN_STATUS(SharedArea area, SharedArea::make(size));
  auto* readings = reinterpret_cast<Reading*>(area.at(0));
  std::copy(plan.begin(), plan.end(), readings);
  const auto work = [&] {
    for (size_t i = 0; i < plan.size(); ++i) read(readings[i], area.at(offsets[i]));
  };
  const auto end_repair = [&] {
    for (const Reading& reading : plan) {
      leave_repair(reading.sender.socket.fd, reading.sender.socket.reuse);
      leave_repair(reading.receiver.socket.fd, reading.receiver.socket.reuse);
    }
  };
  FERMATA_TRY(run_apart(work, end_repair));
  for (size_t i = 0; i < plan.size(); ++i) {
    if (readings[i].error != 0 && readings[i].error != EAGAIN) {
      return errno_status(readings[i].error, "reading a TCP connection");
    }
    if (readings[i].error == EAGAIN || readings[i].receiver.before != readings[i].receiver.after) {
      return {Code::kBusy, "a TCP connection moved while it was read"};
    }
    FERMATA_TRY(each(i, readings[i], area.at(offsets[i])));
  }
  return Status::ok();
}

}  // namespace

Status read_send_queues(std::span<Direction> directions) {
  std::vector<DirectionReading> plan;
  for (const Direction& direction : directions) {
    DirectionReading reading;
    FERMATA_ASSIGN_STATUS(reading.sender, send_queue_of(direction.sender));
    reading.receiver.socket = socket_of(direction.receiver);
    plan.push_back(reading);
  }
  return read_all<DirectionReading>(
      plan, [&](size_t i, const DirectionReading& reading, const char* buffer) -> Status {
        Direction& direction = directions[i];
        const uint32_t length = reading.sender.length;
        const uint32_t fin = direction.fin_queued ? 1 : 0;
        // Of the first byte in the buffer.
        const uint32_t first = reading.sender.write_next - fin - length;
        const uint32_t there = reading.receiver.next - first;  // bytes of it the receiver has
        if (there > length + fin) {
          return {Code::kBusy, "a TCP connection moved while it was read"};
        }
        const uint32_t skip = std::min(there, length);
        direction.unreceived.assign(buffer + skip, length - skip);
        direction.receiver_queue = static_cast<uint32_t>(reading.receiver.after);
        return Status::ok();
      });
}

Status read_wire_ends(std::span<WireEnd> ends) {
  std::vector<WireReading> plan;
  for (const WireEnd& end : ends) {
    WireReading reading;
    FERMATA_ASSIGN_STATUS(reading.sender, send_queue_of(end.fd));
    reading.receiver.socket = reading.sender.socket;
    plan.push_back(reading);
  }
  return read_all<WireReading>(
      plan, [&](size_t i, const WireReading& reading, const char* buffer) -> Status {
        WireEnd& end = ends[i];
        end.queue.assign(buffer, reading.sender.length);
        end.unsent = static_cast<uint32_t>(reading.sender.unsent);
        end.write_next = reading.sender.write_next;
        end.receive_next = reading.receiver.next;
        end.receive_queue = static_cast<uint32_t>(reading.receiver.after);
        end.segment = reading.segment;
        end.window = reading.window;
        return Status::ok();
      });
}

}  // namespace fermata::engine
