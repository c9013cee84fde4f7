#include "node-agent/engine/remote.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace fermata::engine {
namespace {

// The message that carries one descriptor, laid out as the process under construction will see it.
struct DescriptorMessage {
  iovec vector;
  msghdr header;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
  char byte;
};

Status send_descriptor(int socket, int fd) {
  char byte = 'f';
  iovec vector{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) {
    return errno_status(errno, fmt::format("sending descriptor {} to a process", fd));
  }
  return Status::ok();
}

}  // namespace

Status Remote::open_process(pid_t pid) {
  pid_ = pid;
  memory_.reset(::open(fmt::format("/proc/{}/mem", pid).c_str(), O_RDWR | O_CLOEXEC));
  if (!memory_) return errno_status(errno, fmt::format("opening the memory of process {}", pid));
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd_) return errno_status(errno, fmt::format("pidfd_open of process {}", pid));
  return Status::ok();
}

Result<long> Remote::call(std::string_view what, long number, std::array<uint64_t, 6> args) {
  RemoteCall one{number, args, 0};
  FERMATA_TRY_RESULT(run(std::span(&one, 1)));
  if (one.result < 0 && one.result >= -4095) {
    return Failure(
        errno_status(static_cast<int>(-one.result), fmt::format("{} in process {}", what, pid_)));
  }
  return one.result;
}

Status Remote::write_memory(uint64_t address, std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pwrite(memory_.get(), bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(address + done));
    if (n <= 0) {
      return errno_status(n == 0 ? EIO : errno,
                          fmt::format("writing {} bytes at {:#x} of process {}",
                                      bytes.size() - done, address + done, pid_));
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Status Remote::read_memory(uint64_t address, std::span<std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pread(memory_.get(), bytes.data() + done, bytes.size() - done,
                              static_cast<off_t>(address + done));
    if (n <= 0) {
      return errno_status(n == 0 ? EIO : errno,
                          fmt::format("reading {} bytes at {:#x} of process {}",
                                      bytes.size() - done, address + done, pid_));
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Result<uint64_t> Remote::put_string(std::string_view text, size_t offset) {
  if (offset + text.size() + 1 > argument_size()) {
    return failure(Code::kInternal,
                   fmt::format("a string of {} bytes is too long to hand over", text.size()));
  }
  std::vector<std::byte> bytes(text.size() + 1);
  std::memcpy(bytes.data(), text.data(), text.size());
  FERMATA_TRY_RESULT(write_memory(argument_address() + offset, bytes));
  return argument_address() + offset;
}

Result<UniqueFd> Remote::take_fd(int fd) {
  UniqueFd taken(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd_.get(), fd, 0)));
  if (!taken) {
    return errno_failure(errno, fmt::format("taking descriptor {} of process {}", fd, pid_));
  }
  return taken;
}

Result<int> Remote::give_fd(int fd, int want, bool close_on_exec) {
  const uint64_t args = argument_address();
  FERMATA_ASSIGN([[maybe_unused]] const long made,
                 call("socketpair", SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, args}));
  std::array<int, 2> pair{};
  FERMATA_TRY_RESULT(get(args, pair));
  FERMATA_ASSIGN(const UniqueFd ours, take_fd(pair[0]));
  FERMATA_TRY_RESULT(send_descriptor(ours.get(), fd));

  DescriptorMessage message{};
  message.vector = {reinterpret_cast<void*>(args + offsetof(DescriptorMessage, byte)), 1};
  message.header.msg_iov = reinterpret_cast<iovec*>(args);
  message.header.msg_iovlen = 1;
  message.header.msg_control = reinterpret_cast<void*>(args + offsetof(DescriptorMessage, control));
  message.header.msg_controllen = sizeof message.control;
  FERMATA_TRY_RESULT(put(args, message));
  const auto receive_flags = static_cast<uint64_t>(close_on_exec ? MSG_CMSG_CLOEXEC : 0);
  FERMATA_ASSIGN([[maybe_unused]] const long received,
                 call("recvmsg", SYS_recvmsg,
                      {static_cast<uint64_t>(pair[1]), args + offsetof(DescriptorMessage, header),
                       receive_flags}));
  FERMATA_TRY_RESULT(get(args, message));
  int number = -1;
  std::memcpy(&number, message.control.data() + CMSG_LEN(0), sizeof number);
  for (const int end : pair) {
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   call("close", SYS_close, {static_cast<uint64_t>(end)}));
  }
  if (want < 0 || want == number) return number;
  const auto from = static_cast<uint64_t>(number);
  FERMATA_ASSIGN([[maybe_unused]] const long moved,
                 call("dup3", SYS_dup3,
                      {from, static_cast<uint64_t>(want),
                       static_cast<uint64_t>(close_on_exec ? O_CLOEXEC : 0)}));
  FERMATA_ASSIGN([[maybe_unused]] const long closed, call("close", SYS_close, {from}));
  return want;
}

}  // namespace fermata::engine
