#include "node-agent/engine/shared_objects.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "node-agent/engine/pages.h"

namespace fermata::engine {
namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kMemfd = "/memfd:";
/// Shared anonymous memory comes back as a memfd of this name, and is told from the program's own
/// by it.
constexpr std::string_view kAnonymousName = "fermata-shared-memory";
/// HUGETLB_ANON_FILE of include/linux/hugetlb.h.
constexpr std::string_view kHugeAnonymous = "/anon_hugepage";
constexpr size_t kCopyChunk = 4 << 20;

std::string plain_name(const std::string& name) {
  std::string plain = name;
  if (plain.ends_with(kDeleted)) plain.resize(plain.size() - kDeleted.size());
  if (plain.starts_with(kMemfd)) plain.erase(0, kMemfd.size());
  return plain;
}

}  // namespace

image::SharedObject::Kind SharedObjectRecorder::kind_of(const std::string& name) {
  if (name.starts_with(kMemfd)) {
    return plain_name(name) == kAnonymousName ? image::SharedObject::ANONYMOUS
                                              : image::SharedObject::MEMFD;
  }
  if (name.starts_with("/dev/zero") || name.starts_with("[anon_shmem") ||
      name.starts_with(kHugeAnonymous)) {
    return image::SharedObject::ANONYMOUS;
  }
  return image::SharedObject::DELETED;
}

Result<uint32_t> SharedObjectRecorder::record(UniqueFd file, const std::string& name,
                                              image::SharedObject::Kind kind) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    return errno_failure(errno, fmt::format("fstat of {}", name));
  const auto key =
      std::make_pair(static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino));
  if (const auto found = known_.find(key); found != known_.end()) return found->second;

  image::SharedObject& object = *objects_.add_shared_objects();
  const auto id = static_cast<uint32_t>(objects_.shared_objects_size());
  known_[key] = id;
  object.set_id(id);
  object.set_kind(kind);
  object.set_name(plain_name(name));
  object.set_size(static_cast<uint64_t>(status.st_size));
  object.set_mode(status.st_mode & 07777U);
  object.set_huge_page_size(huge_page_size(file.get()));
  if (kind == image::SharedObject::MEMFD) {
    const int seals = ::fcntl(file.get(), F_GET_SEALS);
    if (seals > 0) object.set_seals(static_cast<uint32_t>(seals));
  }
  MemoryRegion region;
  region.id = {MemoryId::Kind::kObject, id};
  FERMATA_ASSIGN(region.extents, data_extents(file.get(), object.size()));
  region.source = std::make_shared<FileMemorySource>(std::move(file));
  memory_.push_back(std::move(region));
  return id;
}

const MemoryRegion* find_region(const std::vector<MemoryRegion>& memory, MemoryId id) {
  for (const MemoryRegion& region : memory) {
    if (region.id == id) return &region;
  }
  return nullptr;
}

uint64_t huge_page_size(int fd) {
  struct statfs system {};
  if (::fstatfs(fd, &system) != 0 || system.f_type != HUGETLBFS_MAGIC) return 0;
  // A block of hugetlbfs is a page (hugetlbfs_statfs() of fs/hugetlbfs/inode.c).
  return static_cast<uint64_t>(system.f_bsize);
}

namespace {

/// Memory of ours that is a file's.
class FileMap {
 public:
  FileMap(int fd, uint64_t size)
      : start_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)),
        size_(size) {}
  FileMap(const FileMap&) = delete;
  FileMap& operator=(const FileMap&) = delete;
  ~FileMap() {
    if (is_mapped()) ::munmap(start_, size_);
  }

  bool is_mapped() const { return start_ != MAP_FAILED; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(start_), size_}; }

 private:
  void* start_;
  size_t size_;
};

/// hugetlbfs takes no write(2).
Status fill_huge_pages(int fd, const image::SharedObject& object, const MemoryRegion& region) {
  if (region.extents.empty()) return Status::ok();
  const FileMap map(fd, object.size());
  if (!map.is_mapped()) return errno_status(errno, "mapping a shared object of huge pages");
  for (const Extent& extent : region.extents) {
    if (extent.where != Where::kHere || extent.address >= object.size()) continue;
    const uint64_t length = std::min(extent.length, object.size() - extent.address);
    // Where there is no page for it a mere access would end us (SIGBUS).
    if (::fallocate(fd, 0, static_cast<off_t>(extent.address), static_cast<off_t>(length)) != 0) {
      return errno_status(errno, fmt::format("filling shared object {} with huge pages "
                                             "(vm.nr_hugepages)",
                                             object.id()));
    }
    FERMATA_TRY(region.source->read(extent.address, map.bytes().subspan(extent.address, length)));
  }
  return Status::ok();
}

uint64_t memfd_flags(const image::SharedObject& object) {
  constexpr uint64_t kUsual = MFD_ALLOW_SEALING | MFD_CLOEXEC;
  const uint64_t size = object.huge_page_size();
  if (size == 0) return kUsual;
  const auto bits = static_cast<uint64_t>(std::countr_zero(size));
  return kUsual | MFD_HUGETLB | bits << MAP_HUGE_SHIFT;
}

}  // namespace

Status fill_file(int fd, const MemoryRegion& region) {
  std::vector<std::byte> buffer(kCopyChunk);
  struct stat status {};
  if (::fstat(fd, &status) != 0) return errno_status(errno, "fstat of a shared object");
  const auto size = static_cast<uint64_t>(status.st_size);
  for (const Extent& extent : region.extents) {
    if (extent.where != Where::kHere) continue;
    for (uint64_t done = 0; done < extent.length;) {
      const uint64_t at = extent.address + done;
      const uint64_t want = std::min<uint64_t>(buffer.size(), extent.length - done);
      const std::span<std::byte> part = std::span(buffer).first(want);
      FERMATA_TRY(region.source->read(at, part));
      // The last page may reach beyond the end of the file.
      const uint64_t inside = at < size ? std::min(want, size - at) : 0;
      if (inside > 0 && ::pwrite(fd, part.data(), inside, static_cast<off_t>(at)) !=
                            static_cast<ssize_t>(inside)) {
        return errno_status(errno, "filling a shared object");
      }
      done += want;
    }
  }
  return Status::ok();
}

Result<UniqueFd> SharedObjectStore::make(RebuildRemote& init, const image::SharedObject& object) {
  long remote_fd = -1;
  if (object.kind() == image::SharedObject::DELETED) {
    const size_t slash = object.name().rfind('/');
    const std::string folder = slash == 0 ? "/" : object.name().substr(0, slash);
    FERMATA_ASSIGN(const uint64_t path, init.put_string(folder));
    FERMATA_ASSIGN(remote_fd,
                   init.call(fmt::format("making an unnamed file in {}", folder), SYS_openat,
                             {static_cast<uint64_t>(AT_FDCWD), path, O_TMPFILE | O_RDWR | O_CLOEXEC,
                              object.mode()}));
  } else {
    const std::string name = object.kind() == image::SharedObject::ANONYMOUS
                                 ? std::string(kAnonymousName)
                                 : object.name();
    FERMATA_ASSIGN(const uint64_t address, init.put_string(name));
    FERMATA_ASSIGN(remote_fd,
                   init.call("memfd_create", SYS_memfd_create, {address, memfd_flags(object)}));
  }
  FERMATA_ASSIGN(UniqueFd ours, init.take_fd(static_cast<int>(remote_fd)));
  FERMATA_ASSIGN([[maybe_unused]] const long closed,
                 init.call("close", SYS_close, {static_cast<uint64_t>(remote_fd)}));
  return ours;
}

Status SharedObjectStore::rebuild(RebuildRemote& init, const image::PodObjects& objects,
                                  const std::vector<MemoryRegion>& memory) {
  for (const image::SharedObject& object : objects.shared_objects()) {
    if (object.kind() == image::SharedObject::SHM_FILE) continue;
    FERMATA_ASSIGN_STATUS(UniqueFd file, make(init, object));
    if (::ftruncate(file.get(), static_cast<off_t>(object.size())) != 0) {
      return errno_status(errno, fmt::format("giving shared object {} ({}) its {} bytes",
                                             object.id(), object.name(), object.size()));
    }
    if (const MemoryRegion* region = find_region(memory, {MemoryId::Kind::kObject, object.id()})) {
      FERMATA_TRY(object.huge_page_size() == 0 ? fill_file(file.get(), *region)
                                               : fill_huge_pages(file.get(), object, *region));
    }
    if (object.kind() == image::SharedObject::MEMFD) {
      if (::fchmod(file.get(), object.mode()) != 0) {
        return errno_status(errno, fmt::format("the mode of memfd {}", object.name()));
      }
    }
    files_[object.id()] = std::move(file);
  }
  return Status::ok();
}

Result<int> SharedObjectStore::fd(uint32_t id) const {
  const auto found = files_.find(id);
  if (found == files_.end()) {
    return failure(Code::kDamaged,
                   fmt::format("the image refers to shared object {}, which it does "
                               "not hold",
                               id));
  }
  return found->second.get();
}

}  // namespace fermata::engine
