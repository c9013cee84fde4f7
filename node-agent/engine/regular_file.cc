// Files with a name (regular files, directories, a few character devices) and files without one
// (memfds, unlinked files), whose bytes the image carries.
//
// A file with a name is opened again by its path: the image holds no bytes of it. What the job
// wrote after the cut is still in it, which two rules deal with: a file that is shorter than at the
// cut is refused (its bytes are gone), and one that has grown is cut back where the program was
// appending, as it will write those bytes again.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <map>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/shared_objects.h"

namespace fermata::engine {
namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr long kMqueueMagic = 0x19800202;
constexpr long kSecretmemMagic = 0x5345434d;

// Character devices that have no state of their own: null, zero, full, random, urandom
// (Documentation/admin-guide/ devices.txt: major 1).
bool is_plain_device(dev_t device) {
  constexpr std::array<unsigned, 5> kMinors{3, 5, 7, 8, 9};
  if (major(device) != 1) return false;
  for (const unsigned number : kMinors) {
    if (minor(device) == number) return true;
  }
  return false;
}

bool is_open_for_writing(uint32_t flags) {
  return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY;
}

std::string_view type_name(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "a regular file";
    case S_IFDIR:
      return "a directory";
    case S_IFCHR:
      return "a character device";
    case S_IFLNK:
      return "a symbolic link";
    case S_IFSOCK:
      return "a socket";
    case S_IFIFO:
      return "a FIFO";
    default:
      return "something else";
  }
}

class RegularFileKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    if (!probe.link.starts_with('/')) return false;
    // An O_PATH descriptor names a file without opening it, whatever it is.
    if (is_path_only(probe)) return true;
    const mode_t mode = probe.status.st_mode;
    return S_ISREG(mode) || S_ISDIR(mode) ||
           (S_ISCHR(mode) && is_plain_device(probe.status.st_rdev));
  }

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    image::RegularFile& file = *out.mutable_regular();
    file.set_size(static_cast<uint64_t>(probe.status.st_size));
    file.set_mode(probe.status.st_mode);
    FERMATA_TRY(refuse_special_file_system(probe));
    if (has_its_name(probe, probe.link)) {
      file.set_path(probe.link);
      return Status::ok();
    }
    if (!probe.link.ends_with(kDeleted)) {
      return refuse(probe,
                    "the path now names another file (something was mounted or moved over it); "
                    "the program has to close it or the name has to be put back");
    }
    if (!S_ISREG(probe.status.st_mode) || is_path_only(probe)) {
      return refuse(probe, fmt::format("{} that was deleted cannot be rebuilt; close it, or do not "
                                       "delete it while the job runs",
                                       type_name(probe.status.st_mode)));
    }
    if (probe.status.st_nlink > 0 && !is_memory_file(probe)) {
      return refuse(probe,
                    "this name was deleted while the file lives on under another one; open it by "
                    "the name that remains");
    }
    FERMATA_ASSIGN_STATUS(const uint32_t id, context.shared_object(probe));
    file.set_object_id(id);
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_regular(); }

  Status start_rebuild(const image::PodObjects& objects, RebuildContext&) override {
    for (const image::SharedObject& object : objects.shared_objects()) {
      if (object.seals() != 0) seals_[object.id()] = object.seals();
    }
    return Status::ok();
  }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const image::RegularFile& regular = file.regular();
    FERMATA_ASSIGN(UniqueFd fd, regular.object_id() != 0 ? open_object(file, context)
                                                         : open_named(file, context));
    if ((file.flags() & O_PATH) != 0) return fd;
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    // A position the file system does not take (some of procfs) is one the program could not use
    // either.
    if (file.position() != 0 && ::lseek(fd.get(), file.position(), SEEK_SET) < 0 &&
        (S_ISREG(regular.mode()) || S_ISDIR(regular.mode()))) {
      return errno_failure(errno, fmt::format("{}: going to byte {} of '{}'", holder_of(file),
                                              file.position(), regular.path()));
    }
    return fd;
  }

  // Seals come last: they forbid what filling and mapping the object needs. Without a descriptor
  // nobody sees them.
  Status connect(const image::File& file, RebuildContext& context) override {
    const auto seals = seals_.find(file.regular().object_id());
    if (seals == seals_.end()) return Status::ok();
    FERMATA_ASSIGN_STATUS(const int object, context.object_fd(seals->first));
    if (::fcntl(object, F_ADD_SEALS, seals->second) != 0) {
      return errno_status(
          errno, fmt::format("{}: sealing a memfd ({:#x})", holder_of(file), seals->second));
    }
    seals_.erase(seals);
    return Status::ok();
  }

 private:
  static bool is_path_only(const FileProbe& probe) {
    return (::fcntl(probe.dup.get(), F_GETFL) & O_PATH) != 0;
  }

  // memfds have a link count of 0 or 1, depending on the kernel, and never a name that can be
  // opened.
  static bool is_memory_file(const FileProbe& probe) { return probe.link.starts_with("/memfd:"); }

  // Whether `path`, looked up from the holder's root, is this very file.
  static bool has_its_name(const FileProbe& probe, const std::string& path) {
    struct stat found {};
    const std::string seen = fmt::format("/proc/{}/root{}", probe.pid, path);
    if (::lstat(seen.c_str(), &found) != 0) {
      // A file system that keeps root out (EACCES) leaves the kernel's word for it.
      return errno == EACCES && !path.ends_with(kDeleted);
    }
    return found.st_ino == probe.status.st_ino && found.st_dev == probe.status.st_dev;
  }

  static Status refuse_special_file_system(const FileProbe& probe) {
    if (is_path_only(probe)) return Status::ok();
    struct statfs fs {};
    if (::fstatfs(probe.dup.get(), &fs) != 0) return Status::ok();
    if (fs.f_type == kMqueueMagic) {
      return refuse(probe,
                    "POSIX message queues cannot be held; the program has to close it (mq_close) "
                    "before a checkpoint");
    }
    if (S_ISREG(probe.status.st_mode) && !is_memory_file(probe) &&
        huge_page_size(probe.dup.get()) != 0) {
      return refuse(probe,
                    "a file of huge pages (hugetlbfs) is memory of this node alone and cannot be "
                    "held: use a memfd (MFD_HUGETLB), or MAP_HUGETLB without a file");
    }
    if (fs.f_type == kSecretmemMagic) {
      return refuse(probe, "memory of memfd_secret(2) must not be read by others; run without it");
    }
    return Status::ok();
  }

  static int open_flags(uint32_t flags, uint32_t mode) {
    // What is only for the moment of the open, or for making the file; O_TMPFILE has O_DIRECTORY in
    // it.
    uint32_t drop = O_CREAT | O_EXCL | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY) | O_CLOEXEC;
    if (!S_ISDIR(mode)) drop |= O_DIRECTORY;
    uint32_t kept = (flags & ~drop) | O_NOCTTY;
    if ((flags & O_PATH) != 0) kept |= O_NOFOLLOW;
    return static_cast<int>(kept);
  }

  static Result<UniqueFd> open_object(const image::File& file, RebuildContext& context) {
    FERMATA_ASSIGN(const int object, context.object_fd(file.regular().object_id()));
    return reopen(object, open_flags(file.flags(), S_IFREG));
  }

  static Result<UniqueFd> open_named(const image::File& file, RebuildContext& context) {
    const image::RegularFile& regular = file.regular();
    Result<UniqueFd> fd = context.open_in_pod(file.creator(), regular.path(),
                                              open_flags(file.flags(), regular.mode()), 0);
    if (!fd) {
      const Status& status = fd.error();
      std::string_view advice;
      if (status.error_number() == ENOENT) {
        return failure(Code::kNotFound,
                       fmt::format("{}: '{}' was open at the checkpoint and is not there any more; "
                                   "put it back",
                                   holder_of(file), regular.path()),
                       ENOENT);
      }
      if (status.error_number() == EACCES) advice = "; give the job's user access to it again";
      return failure(status.code(),
                     fmt::format("{}: cannot open '{}' again: {}{}", holder_of(file),
                                 regular.path(), status.message(), advice),
                     status.error_number());
    }
    FERMATA_TRY_RESULT(check_and_cut_back(file, fd->get()));
    return fd;
  }

  static Status check_and_cut_back(const image::File& file, int fd) {
    const image::RegularFile& regular = file.regular();
    struct stat now {};
    if (::fstat(fd, &now) != 0) {
      return errno_status(errno, fmt::format("fstat of '{}'", regular.path()));
    }
    if ((now.st_mode & S_IFMT) != (regular.mode() & S_IFMT)) {
      return {Code::kConflict,
              fmt::format("{}: '{}' was {} at the checkpoint and is {} now; put the old one back",
                          holder_of(file), regular.path(), type_name(regular.mode()),
                          type_name(now.st_mode))};
    }
    if (S_ISCHR(now.st_mode) && !is_plain_device(now.st_rdev)) {
      return {Code::kConflict, fmt::format("{}: '{}' is another device than at the checkpoint",
                                           holder_of(file), regular.path())};
    }
    if (!S_ISREG(now.st_mode) || (file.flags() & O_PATH) != 0) return Status::ok();
    const auto size = static_cast<uint64_t>(now.st_size);
    if (size < regular.size()) {
      return {
          Code::kConflict,
          fmt::format("{}: '{}' has {} bytes now and had {} at the checkpoint: what the program "
                      "wrote or would read is gone; put the longer file back",
                      holder_of(file), regular.path(), size, regular.size())};
    }
    const bool appending =
        (file.flags() & O_APPEND) != 0 || file.position() == static_cast<int64_t>(regular.size());
    if (size > regular.size() && is_open_for_writing(file.flags()) && appending) {
      if (::ftruncate(fd, static_cast<off_t>(regular.size())) != 0) {
        return errno_status(errno, fmt::format("{}: cutting '{}' back to {} bytes", holder_of(file),
                                               regular.path(), regular.size()));
      }
    }
    return Status::ok();
  }

  std::map<uint32_t, uint32_t> seals_;  // of a rebuild: by object id, not applied yet
};

}  // namespace

std::unique_ptr<FileKind> make_regular_file_kind() { return std::make_unique<RegularFileKind>(); }

}  // namespace fermata::engine
