#include "node-agent/engine/file_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "common/file_util.h"
#include "node-agent/engine/file_locks.h"

namespace fermata::engine {
namespace {

constexpr int kStreams = 3;
/// One message carries at most this many descriptors (SCM_MAX_FD is 253, unix(7)).
constexpr size_t kMostInMessage = 250;

bool same_file(pid_t a, int fd_a, pid_t b, int fd_b) {
  return ::syscall(SYS_kcmp, a, b, KCMP_FILE, static_cast<unsigned long>(fd_a),
                   static_cast<unsigned long>(fd_b)) == 0;
}

Result<std::vector<int>> descriptors_of(const HeldProcess& process) {
  const std::string path = fmt::format("/proc/{}/fd", process.pid);
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) {
    return errno_failure(errno, fmt::format("listing the files of {}", process.describe()));
  }
  std::vector<int> fds;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string_view name = entry->d_name;
    int fd = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), fd).ec == std::errc()) {
      fds.push_back(fd);
    }
  }
  ::closedir(directory);
  std::sort(fds.begin(), fds.end());
  return fds;
}

/// A line of fdinfo as a number; 0 when it is not there.
uint64_t line_number(const std::string& fdinfo, std::string_view key, int base) {
  const size_t at = fdinfo.find(key);
  if (at == std::string::npos) return 0;
  return std::strtoull(fdinfo.c_str() + at + key.size(), nullptr, base);
}

Result<FileProbe> probe_of(const HeldProcess& process, int fd) {
  FileProbe probe;
  probe.pid = process.pid;
  probe.vpid = process.vpid;
  probe.fd = fd;
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  probe.dup.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)));
  if (!probe.dup) {
    return errno_failure(errno, fmt::format("taking descriptor {} of {}", fd, process.describe()));
  }
  FERMATA_ASSIGN(probe.link, read_link(fmt::format("/proc/{}/fd/{}", process.pid, fd)));
  FERMATA_ASSIGN(probe.fdinfo, read_file(fmt::format("/proc/{}/fdinfo/{}", process.pid, fd)));
  if (::fstat(probe.dup.get(), &probe.status) != 0) {
    return errno_failure(errno,
                         fmt::format("fstat of descriptor {} of {}", fd, process.describe()));
  }
  return probe;
}

Status capture_owner(const FileProbe& probe, CaptureContext& context, image::File& file) {
  f_owner_ex owner{};
  if (::fcntl(probe.dup.get(), F_GETOWN_EX, &owner) != 0 || owner.pid == 0) return Status::ok();
  const int vpid = context.vpid_of(owner.pid);
  if (vpid == 0) {
    return {Code::kCannotHold,
            fmt::format("{} signals a process outside the job (F_SETOWN)", probe.describe())};
  }
  file.mutable_owner()->set_type(owner.type);
  file.mutable_owner()->set_vpid(vpid);
  file.mutable_owner()->set_signal(std::max(0, ::fcntl(probe.dup.get(), F_GETSIG)));
  return Status::ok();
}

}  // namespace

FileTableRecorder::FileTableRecorder(pid_t init, int rank_streams, CaptureContext& context,
                                     image::PodObjects& objects)
    : init_(init), context_(context), objects_(objects), kinds_(make_file_kinds()) {
  for (int stream = 0; stream < kStreams + rank_streams; ++stream) {
    const int fd = stream < kStreams ? stream : stream - kStreams + kFirstRankStream;
    struct stat status {};
    if (::stat(fmt::format("/proc/{}/fd/{}", init_, fd).c_str(), &status) != 0) continue;
    streams_.push_back({stream, fd, status.st_dev, status.st_ino});
  }
}

uint32_t FileTableRecorder::find(pid_t pid, int fd, const struct stat& status) const {
  for (const Known& known : known_) {
    if (known.device == status.st_dev && known.inode == status.st_ino &&
        same_file(pid, fd, known.pid, known.fd)) {
      return known.id;
    }
  }
  return 0;
}

int FileTableRecorder::stream_of(pid_t pid, int fd, const struct stat& status) const {
  for (const Stream& stream : streams_) {
    if (stream.device == status.st_dev && stream.inode == status.st_ino &&
        same_file(pid, fd, init_, stream.fd)) {
      return stream.number;
    }
  }
  return -1;
}

uint32_t FileTableRecorder::file_at(int vpid, int fd) const {
  const auto found = table_.find({vpid, fd});
  return found == table_.end() ? 0 : found->second;
}

Result<uint32_t> FileTableRecorder::capture(FileProbe probe, uint32_t flags, Obstacles& obstacles) {
  image::File& file = *objects_.add_files();
  const auto id = static_cast<uint32_t>(objects_.files_size());
  file.set_id(id);
  file.set_flags(flags);
  file.set_position(static_cast<int64_t>(line_number(probe.fdinfo, "pos:", 10)));
  file.set_creator(probe.vpid);
  file.set_creator_fd(probe.fd);
  known_.push_back({probe.pid, probe.fd, probe.status.st_dev, probe.status.st_ino, id});

  const int stream = stream_of(probe.pid, probe.fd, probe.status);
  if (stream >= 0) {
    file.mutable_stdio()->set_stream(stream);
    return id;
  }
  Status status = capture_owner(probe, context_, file);
  if (status) {
    Result<std::vector<image::FileLock>> locks = locks_of(probe);
    if (!locks) status = locks.error();
    if (locks) {
      for (const image::FileLock& lock : *locks) {
        if (lock.type() != image::FileLock::POSIX) *file.add_locks() = lock;
      }
    }
  }
  for (const std::unique_ptr<FileKind>& kind : kinds_) {
    if (!status || !kind->matches(probe)) continue;
    status = kind->capture(probe, context_, file);
    break;
  }
  FERMATA_TRY_RESULT(obstacles.note(status));
  return id;
}

Status FileTableRecorder::record(const HeldProcess& process, image::Process& out,
                                 Obstacles& obstacles) {
  FERMATA_ASSIGN_STATUS(const std::vector<int> fds, descriptors_of(process));
  for (const int fd : fds) {
    FERMATA_ASSIGN_STATUS(FileProbe probe, probe_of(process, fd));
    const auto shown = static_cast<uint32_t>(line_number(probe.fdinfo, "flags:", 8));
    // O_CLOEXEC is the descriptor's, not the description's; fdinfo shows both in one number
    // (proc(5)).
    const uint32_t flags = shown & ~static_cast<uint32_t>(O_CLOEXEC);
    FERMATA_ASSIGN_STATUS(const std::vector<image::FileLock> locks, locks_of(probe));
    uint32_t id = find(process.pid, fd, probe.status);
    if (id == 0) {
      FERMATA_ASSIGN_STATUS(id, capture(std::move(probe), flags, obstacles));
    }
    for (const image::FileLock& lock : locks) {
      if (lock.type() != image::FileLock::POSIX) continue;
      const bool known = std::any_of(
          out.posix_locks().begin(), out.posix_locks().end(), [&](const image::FileLock& other) {
            return other.file_id() == id && other.start() == lock.start() &&
                   other.length() == lock.length();
          });
      if (known) continue;
      image::FileLock& posix = *out.add_posix_locks();
      posix = lock;
      posix.set_file_id(id);
    }
    image::Fd& entry = *out.add_fds();
    entry.set_fd(fd);
    entry.set_file_id(id);
    entry.set_close_on_exec((shown & O_CLOEXEC) != 0);
    table_[{process.vpid, fd}] = id;
  }
  return Status::ok();
}

Status FileTableRecorder::finish(Obstacles& obstacles) {
  for (const std::unique_ptr<FileKind>& kind : kinds_) {
    FERMATA_TRY(obstacles.note(kind->finish_capture(context_, objects_)));
  }
  return Status::ok();
}

namespace {

/// The descriptors of one message, as the receiving process gets them.
class DescriptorBatch {
 public:
  /// Sends `entries` (ascending numbers) and moves each from where it arrives to where it belongs.
  /// Descriptors arrive at the lowest free numbers in order, so each at or below its own: moving
  /// the last one first never hits one not yet moved.
  static Status give(RebuildRemote& remote, std::span<const image::Fd* const> entries,
                     const std::map<uint32_t, UniqueFd>& files, int socket_number) {
    std::vector<int> ours;
    for (const image::Fd* entry : entries) {
      const auto found = files.find(entry->file_id());
      if (found == files.end()) {
        return {Code::kDamaged, fmt::format("descriptor {} of process {} is of file {}, which the "
                                            "image does not hold",
                                            entry->fd(), remote.pid(), entry->file_id())};
      }
      ours.push_back(found->second.get());
    }
    FERMATA_ASSIGN_STATUS(const std::vector<int> arrived, transfer(remote, ours, socket_number));
    std::vector<RemoteCall> calls;
    for (size_t i = entries.size(); i-- > 0;) {
      const auto from = static_cast<uint64_t>(arrived[i]);
      const auto to = static_cast<uint64_t>(entries[i]->fd());
      const uint64_t flags = entries[i]->close_on_exec() ? O_CLOEXEC : 0;
      if (from == to) {
        calls.push_back({SYS_fcntl, {from, F_SETFD, flags != 0 ? FD_CLOEXEC : 0UL}, 0});
      } else {
        calls.push_back({SYS_dup3, {from, to, flags}, 0});
        calls.push_back({SYS_close, {from}, 0});
      }
    }
    FERMATA_TRY(remote.run(calls));
    for (const RemoteCall& one : calls) {
      if (one.result < 0) {
        return errno_status(static_cast<int>(-one.result),
                            fmt::format("placing a descriptor of process {}", remote.pid()));
      }
    }
    return Status::ok();
  }

 private:
  static Result<std::vector<int>> transfer(RebuildRemote& remote, const std::vector<int>& ours,
                                           int socket_number) {
    const uint64_t args = remote.argument_address();
    FERMATA_ASSIGN(
        [[maybe_unused]] const long made,
        remote.call("socketpair", SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, args}));
    std::array<int, 2> pair{};
    FERMATA_TRY_RESULT(remote.get(args, pair));
    FERMATA_ASSIGN(const UniqueFd sender, remote.take_fd(pair[0]));
    FERMATA_TRY_RESULT(send(sender.get(), ours));
    // The receiving end goes out of the way, so that the lowest numbers are free.
    std::array<RemoteCall, 3> move{RemoteCall{SYS_dup3,
                                              {static_cast<uint64_t>(pair[1]),
                                               static_cast<uint64_t>(socket_number), O_CLOEXEC},
                                              0},
                                   RemoteCall{SYS_close, {static_cast<uint64_t>(pair[0])}, 0},
                                   RemoteCall{SYS_close, {static_cast<uint64_t>(pair[1])}, 0}};
    FERMATA_TRY_RESULT(remote.run(move));
    if (move[0].result < 0) {
      return errno_failure(static_cast<int>(-move[0].result),
                           fmt::format("descriptor {} of process {} (limit on open files?)",
                                       socket_number, remote.pid()));
    }
    FERMATA_ASSIGN(std::vector<int> arrived, receive(remote, ours.size(), socket_number));
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   remote.call("close", SYS_close, {static_cast<uint64_t>(socket_number)}));
    return arrived;
  }

  static Status send(int socket, const std::vector<int>& ours) {
    char byte = 'f';
    iovec vector{&byte, 1};
    std::vector<char> control(CMSG_SPACE(ours.size() * sizeof(int)));
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(ours.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), ours.data(), ours.size() * sizeof(int));
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) {
      return errno_status(errno, "handing descriptors to a process under construction");
    }
    return Status::ok();
  }

  static Result<std::vector<int>> receive(RebuildRemote& remote, size_t count, int socket_number) {
    constexpr uint64_t kControlAt = 256;
    const uint64_t args = remote.argument_address();
    const size_t control_size = CMSG_SPACE(count * sizeof(int));
    msghdr message{};
    const iovec vector{reinterpret_cast<void*>(args + 128), 1};
    message.msg_iov = reinterpret_cast<iovec*>(args + 64);
    message.msg_iovlen = 1;
    message.msg_control = reinterpret_cast<void*>(args + kControlAt);
    message.msg_controllen = control_size;
    FERMATA_TRY_RESULT(remote.put(args, message));
    FERMATA_TRY_RESULT(remote.put(args + 64, vector));
    FERMATA_ASSIGN(
        [[maybe_unused]] const long got,
        remote.call("recvmsg", SYS_recvmsg, {static_cast<uint64_t>(socket_number), args, 0}));
    std::vector<std::byte> control(control_size);
    FERMATA_TRY_RESULT(remote.read_memory(args + kControlAt, control));
    cmsghdr header{};
    std::memcpy(&header, control.data(), sizeof header);
    if (header.cmsg_type != SCM_RIGHTS || header.cmsg_len != CMSG_LEN(count * sizeof(int))) {
      return failure(Code::kInternal,
                     fmt::format("process {} got fewer descriptors than were sent (limit on open "
                                 "files?)",
                                 remote.pid()));
    }
    std::vector<int> numbers(count);
    std::memcpy(numbers.data(), control.data() + CMSG_LEN(0), count * sizeof(int));
    return numbers;
  }
};

}  // namespace

Status rebuild_file_table(RebuildRemote& remote, const image::Process& process,
                          const std::map<uint32_t, UniqueFd>& files) {
  std::vector<const image::Fd*> entries;
  for (const image::Fd& entry : process.fds()) entries.push_back(&entry);
  if (entries.empty()) return Status::ok();
  std::sort(entries.begin(), entries.end(),
            [](const image::Fd* a, const image::Fd* b) { return a->fd() < b->fd(); });
  const int socket_number = std::max(entries.back()->fd() + 1, 8);
  // Highest numbers first: what has arrived below is then always free again.
  std::span<const image::Fd* const> rest(entries);
  while (!rest.empty()) {
    const size_t count = std::min(rest.size(), kMostInMessage);
    FERMATA_TRY(DescriptorBatch::give(remote, rest.last(count), files, socket_number));
    rest = rest.first(rest.size() - count);
  }
  return Status::ok();
}

}  // namespace fermata::engine
