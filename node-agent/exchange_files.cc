#include "node-agent/exchange_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "common/file_util.h"
#include "node-agent/pod/exchange_layout.h"

namespace fermata::node_agent {
namespace {

// Written beside the messages; a write that was cut short leaves it, and the next one replaces it.
constexpr const char* kUnfinished = ".agent";
// What the inbox may hold when podinit does not read it (a stopped pod).
constexpr uint64_t kMaxInboxBytes = uint64_t{1} << 30;
// What the folders' paths begin with.
constexpr const char* kShm = "dev/shm";

struct DirCloser {
  void operator()(DIR* dir) const { closedir(dir); }
};

/// openat2(2), Linux 5.6: no link leads out of the folder or anywhere else.
UniqueFd open_in(int folder, const char* path, int flags, uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, folder, path, &how, sizeof how)));
}

/// Below /dev/shm, which is the pod's own, nothing is mounted but what the user mounts there: a
/// file system of his would hold us up for as long as he likes.
Result<UniqueFd> open_below(int root, const std::string& path) {
  const UniqueFd shm = open_in(root, kShm, O_PATH | O_DIRECTORY, 0);
  UniqueFd fd;
  if (shm) {
    fd = open_in(shm.get(), path.c_str() + std::string_view(kShm).size() + 1,
                 O_RDONLY | O_DIRECTORY, RESOLVE_NO_XDEV);
  }
  if (!fd) return errno_failure(errno, fmt::format("/{} of the pod", path));
  return fd;
}

/// To be looked at: neither opened nor followed.
UniqueFd find_in(int folder, const char* name) {
  return open_in(folder, name, O_PATH | O_NOFOLLOW, RESOLVE_NO_XDEV);
}

/// Calls `entry` with each name in the folder, until it says false.
template <typename Entry>
Status for_each_name(int folder, const Entry& entry) {
  // A description of its own, at the beginning.
  UniqueFd fd(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_status(errno, "the folder of the pod's exchange");
  const std::unique_ptr<DIR, DirCloser> dir(fdopendir(fd.get()));
  if (dir == nullptr) return errno_status(errno, "the folder of the pod's exchange");
  (void)fd.release();
  for (;;) {
    const dirent* found = readdir(dir.get());
    if (found == nullptr || !entry(found->d_name)) return Status::ok();
  }
}

/// Whether the inbox takes another message of `size` bytes.
Status check_room(int inbox, size_t size) {
  size_t files = 0;
  uint64_t bytes = size;
  FERMATA_TRY(for_each_name(inbox, [&](const char* name) {
    struct stat info {};
    const UniqueFd found = find_in(inbox, name);
    if (found && fstat(found.get(), &info) == 0 && S_ISREG(info.st_mode)) {
      ++files;
      bytes += static_cast<uint64_t>(info.st_size);
    }
    return files < pod::kMaxInboxFiles;
  }));
  if (files >= pod::kMaxInboxFiles || bytes > kMaxInboxBytes) {
    return {Code::kStorage, "the inbox of the pod's exchange is full: podinit does not read it"};
  }
  return Status::ok();
}

}  // namespace

Status ExchangeFiles::open() {
  FERMATA_ASSIGN_STATUS(UniqueFd out, open_below(root_.get(), pod::kExchangeOut));
  FERMATA_ASSIGN_STATUS(in_, open_below(root_.get(), pod::kExchangeIn));
  // What an agent left that was killed while it wrote.
  unlinkat(in_.get(), kUnfinished, 0);
  out_ = std::move(out);
  return Status::ok();
}

Result<std::vector<uint64_t>> ExchangeFiles::list_outbox() const {
  std::vector<uint64_t> names;
  FERMATA_TRY_RESULT(for_each_name(out_.get(), [&](std::string_view name) {
    uint64_t number = 0;
    if (pod::is_exchange_name(name) &&
        std::from_chars(name.data(), name.data() + name.size(), number).ec == std::errc() &&
        std::to_string(number) == name) {
      names.push_back(number);
    }
    return names.size() < pod::kMaxOutboxFiles;
  }));
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::optional<std::string>> ExchangeFiles::read(uint64_t name) const {
  const std::string path = std::to_string(name);
  // Looked at before it is opened: a FIFO or a device is not.
  const UniqueFd found = find_in(out_.get(), path.c_str());
  if (!found && errno == ENOENT) return std::nullopt;
  struct stat info {};
  if (!found || fstat(found.get(), &info) != 0) {
    return failure(Code::kCannotHold, "cannot be looked at", errno);
  }
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) > pod::kMaxExchangeFile) {
    return failure(Code::kCannotHold, "is too big, or no regular file");
  }
  const std::string link = fmt::format("/proc/self/fd/{}", found.get());
  const UniqueFd fd(::open(link.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failure(Code::kCannotHold, "cannot be opened", errno);
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(Code::kCannotHold, "cannot be read", errno);
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  text.resize(length);
  return text;
}

Status ExchangeFiles::write(const std::string& message) {
  FERMATA_TRY(check_room(in_.get(), message.size()));
  if (unlinkat(in_.get(), kUnfinished, 0) != 0 && errno != ENOENT) {
    return errno_status(Code::kStorage, errno, "the inbox of the pod's exchange");
  }
  const UniqueFd fd(
      openat(in_.get(), kUnfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return errno_status(Code::kStorage, errno, "the inbox of the pod's exchange");
  FERMATA_TRY(write_all(fd.get(), message, "a message to the pod"));
  // Names that an earlier agent gave may still be there unread.
  for (;; ++next_) {
    const std::string name = std::to_string(next_);
    if (renameat2(in_.get(), kUnfinished, in_.get(), name.c_str(), RENAME_NOREPLACE) == 0) break;
    if (errno != EEXIST) {
      return errno_status(Code::kStorage, errno, "the inbox of the pod's exchange");
    }
  }
  ++next_;
  return Status::ok();
}

}  // namespace fermata::node_agent
