#include "node-agent/engine/file_locks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <sstream>
#include <string>

namespace fermata::engine {
namespace {

struct flock range_of(const image::FileLock& lock) {
  struct flock range {};
  range.l_type = lock.exclusive() ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(lock.start());
  range.l_len = static_cast<off_t>(lock.length());
  return range;
}

Status taken(const image::FileLock& lock, int err) {
  if (err != EAGAIN && err != EACCES) {
    return errno_status(err, fmt::format("taking a lock of file {} again", lock.file_id()));
  }
  return {Code::kConflict,
          fmt::format("the lock on file {} (from byte {}) is held by somebody else now: end that "
                      "program first",
                      lock.file_id(), lock.start())};
}

/// "1: POSIX  ADVISORY  WRITE 812 fd:00:17 0 EOF" (proc(5), /proc/locks).
Result<bool> parse_lock(const FileProbe& probe, const std::string& line, image::FileLock& lock) {
  std::array<char, 16> type{};
  std::array<char, 16> mode{};
  std::array<char, 32> end{};
  uint64_t start = 0;
  if (std::sscanf(line.c_str(), "lock: %*d: %15s %*s %15s %*d %*s %" SCNu64 " %31s", type.data(),
                  mode.data(), &start, end.data()) != 4) {
    return false;  // "->": waits for the lock
  }
  const std::string kind = type.data();
  if (kind == "POSIX") {
    lock.set_type(image::FileLock::POSIX);
  } else if (kind == "OFDLCK") {
    lock.set_type(image::FileLock::OPEN_FILE);
  } else if (kind == "FLOCK") {
    lock.set_type(image::FileLock::FLOCK);
  } else {
    return failure(Code::kCannotHold,
                   fmt::format("{} holds a {}, which cannot be rebuilt", probe.describe(), kind));
  }
  lock.set_exclusive(std::string(mode.data()) == "WRITE");
  lock.set_start(start);
  const std::string last = end.data();
  lock.set_length(last == "EOF" ? 0 : std::stoull(last) - start + 1);
  return true;
}

}  // namespace

Result<std::vector<image::FileLock>> locks_of(const FileProbe& probe) {
  std::vector<image::FileLock> locks;
  std::istringstream lines(probe.fdinfo);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("lock:")) continue;
    image::FileLock lock;
    FERMATA_ASSIGN(const bool held, parse_lock(probe, line, lock));
    if (held) locks.push_back(lock);
  }
  return locks;
}

Status relock(const image::FileLock& lock, int fd) {
  if (lock.type() == image::FileLock::FLOCK) {
    const int how = (lock.exclusive() ? LOCK_EX : LOCK_SH) | LOCK_NB;
    return ::flock(fd, how) == 0 ? Status::ok() : taken(lock, errno);
  }
  struct flock range = range_of(lock);
  return ::fcntl(fd, F_OFD_SETLK, &range) == 0 ? Status::ok() : taken(lock, errno);
}

Status relock_posix(const image::FileLock& lock, Remote& process, int fd) {
  const uint64_t args = process.argument_address();
  FERMATA_TRY(process.put(args, range_of(lock)));
  RemoteCall call{SYS_fcntl, {static_cast<uint64_t>(fd), F_SETLK, args}, 0};
  FERMATA_TRY(process.run(std::span(&call, 1)));
  return call.result == 0 ? Status::ok() : taken(lock, static_cast<int>(-call.result));
}

}  // namespace fermata::engine
