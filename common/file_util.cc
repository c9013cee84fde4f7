#include "common/file_util.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "common/fault_point.h"
#include "common/unique_fd.h"

namespace fermata {
namespace {

/// A file under a name of its own; the name is removed unless it was given up.
class TemporaryName {
 public:
  explicit TemporaryName(std::string name) : name_(std::move(name)) {}
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;
  ~TemporaryName() {
    if (!name_.empty()) ::unlink(name_.c_str());
  }
  const char* c_str() const { return name_.c_str(); }
  void keep() { name_.clear(); }

 private:
  std::string name_;
};

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Whether there is a folder at `path` already.
Result<bool> is_folder(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return false;
    return errno_failure(errno, fmt::format("cannot use {}", path.string()));
  }
  if (S_ISDIR(status.st_mode)) return true;
  return failure(Code::kStorage, fmt::format("{} is in the way: it is not a folder", path.string()),
                 ENOTDIR);
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, fmt::format("cannot open {}", path.string()));
  std::string contents;
  std::array<char, 16384> buffer;
  while (true) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count == 0) return contents;
    if (count > 0) {
      contents.append(buffer.data(), static_cast<size_t>(count));
    } else if (errno != EINTR) {
      return errno_failure(errno, fmt::format("cannot read {}", path.string()));
    }
  }
}

Status write_all(int fd, std::string_view bytes, std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (errno != EINTR) {
      return errno_status(errno, fmt::format("cannot write {}", what));
    }
  }
  return Status::ok();
}

Status write_file_durable(const std::filesystem::path& path, std::string_view contents,
                          mode_t mode) {
  std::string name = path.string() + ".part-XXXXXX";
  const UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd) return errno_status(errno, fmt::format("cannot create a file beside {}", path.string()));
  TemporaryName temporary(std::move(name));
  FERMATA_TRY(write_all(fd.get(), contents, path.string()));
  if (::fchmod(fd.get(), mode) != 0) {
    return errno_status(errno, fmt::format("cannot set the mode of {}", path.string()));
  }
  if (::fsync(fd.get()) != 0) {
    return errno_status(errno, fmt::format("cannot write {} to disk", path.string()));
  }
  FAULT_POINT("file.rename");
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return errno_status(errno, fmt::format("cannot put {} in place", path.string()));
  }
  temporary.keep();
  return fsync_dir(folder_of(path));
}

Status make_directories(const std::filesystem::path& path, mode_t mode) {
  FERMATA_ASSIGN_STATUS(const bool stands, is_folder(path));
  if (stands) return Status::ok();
  // "a/b/" names the folder "a/b": its parent is "a", not "a/b".
  const auto name = path.has_filename() ? path : path.parent_path();
  const auto folder = folder_of(name);
  FERMATA_TRY(make_directories(folder, mode));
  // Somebody else may have made it meanwhile.
  if (::mkdir(name.c_str(), mode) != 0 && errno != EEXIST) {
    return errno_status(errno, fmt::format("cannot make the folder {}", name.string()));
  }
  return fsync_dir(folder);
}

Status lock_within(int fd, std::chrono::milliseconds patience, std::string_view what) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return errno_status(errno, fmt::format("cannot lock {}", what));
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return {Code::kBusy,
              fmt::format("{}: another process has held its lock for {:.0f} s (lslocks "
                          "names it); try again when it has let go",
                          what, std::chrono::duration<double>(patience).count())};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return Status::ok();
}

Status fsync_dir(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_status(errno, fmt::format("cannot open the folder {}", path.string()));
  if (::fsync(fd.get()) != 0) {
    return errno_status(errno, fmt::format("cannot write the folder {} to disk", path.string()));
  }
  return Status::ok();
}

}  // namespace fermata
