#include "node-agent/engine/address_space.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>

#include "node-agent/engine/map_flags.h"

namespace fermata::engine {
namespace {

struct Advice {
  std::string_view flag;
  int advice;
};

// VmFlags of smaps and the madvise(2) that sets them.
constexpr std::array<Advice, 8> kAdvice{{{"dc", MADV_DONTFORK},
                                         {"wf", MADV_WIPEONFORK},
                                         {"dd", MADV_DONTDUMP},
                                         {"hg", MADV_HUGEPAGE},
                                         {"nh", MADV_NOHUGEPAGE},
                                         {"mg", MADV_MERGEABLE},
                                         {"rr", MADV_RANDOM},
                                         {"sr", MADV_SEQUENTIAL}}};

constexpr std::string_view kInstead =
    " (hugetlbfs), which cannot be held: use anonymous ones (mmap with MAP_ANONYMOUS and "
    "MAP_HUGETLB), or a shared map of a memfd (MFD_HUGETLB)";

class MapRecorder {
 public:
  MapRecorder(const HeldProcess& process, pid_t init, SharedObjectRecorder& recorder,
              const PageFinder& finder)
      : process_(process), init_(init), recorder_(recorder), finder_(finder) {}

  Status record(const Map& map, image::Vma& out) {
    out.set_start(map.start);
    out.set_end(map.end);
    out.set_protection(static_cast<uint32_t>(map.protection));
    out.set_shared(map.shared);
    out.set_offset(map.offset);
    if (map.name == "[vdso]") {
      out.set_backing(image::Vma::VDSO);
      return Status::ok();
    }
    if (map.name.starts_with("[vvar")) {
      out.set_backing(image::Vma::VVAR);
      return Status::ok();
    }
    FERMATA_TRY(refuse_unknown(map));
    out.set_grows_down(map.has_flag("gd"));
    out.set_no_reserve(map.has_flag("nr"));
    out.set_locked(map.has_flag("lo"));
    out.set_dont_dump(map.has_flag("dd"));
    for (const Advice& advice : kAdvice) {
      if (map.has_flag(advice.flag)) out.add_advice(advice.advice);
    }
    if (map.inode == 0 && map.name.starts_with("[anon:")) {
      out.set_anon_name(map.name.substr(6, map.name.size() - 7));
    }
    if (map.has_huge_pages()) return huge_pages(map, out);
    return map.inode == 0 ? Status::ok() : backed(map, out);
  }

 private:
  Status cannot(const Map& map, const std::string& why) const {
    return {Code::kCannotHold,
            fmt::format("{}: the map {:#x}-{:#x} ({}) {}", process_.describe(), map.start, map.end,
                        map.name.empty() ? "anonymous" : map.name, why)};
  }

  Status refuse_unknown(const Map& map) const {
    if (map.has_flag("ht") && !map.shared && !map.has_huge_pages()) {
      return cannot(map, "is a private map of a file of huge pages" + std::string(kInstead));
    }
    const bool tracked = map.has_flag("uw") && finder_.is_ours(process_.pid, map.start, map.end);
    if (map.has_flag("um") || (map.has_flag("uw") && !tracked) || map.has_flag("ui")) {
      return cannot(map, "is registered with the program's own userfaultfd");
    }
    if (map.has_flag("pf") || map.has_flag("io") || map.has_flag("mm")) {
      return cannot(map, "is memory of a device or the kernel, which cannot be rebuilt");
    }
    if (map.has_flag("ss"))
      return cannot(map, "is a shadow stack: run without GLIBC_TUNABLES shstk");
    if (map.protection_key != 0) return cannot(map, "has a memory protection key");
    return Status::ok();
  }

  Status huge_pages(const Map& map, image::Vma& out) {
    struct stat mapped {};
    FERMATA_TRY(stat_mapped(map, mapped));
    // A block of such a file is a page (hugetlbfs_fill_super() of fs/hugetlbfs/inode.c).
    out.set_huge_page_size(static_cast<uint64_t>(mapped.st_blksize));
    out.set_offset(0);
    // A fork's copy has no pages reserved (hugetlb_dup_vma_private() of mm/hugetlb.c).
    const uint64_t inode = map.inode;
    if (recorder_.first_with(inode, process_.vpid) != process_.vpid) out.set_no_reserve(true);
    return Status::ok();
  }

  Status stat_mapped(const Map& map, struct stat& mapped) const {
    const std::string link = link_of(map);
    if (::stat(link.c_str(), &mapped) == 0) return Status::ok();
    return errno_status(
        errno, fmt::format("{}: reading what is mapped at {:#x}", process_.describe(), map.start));
  }

  std::string link_of(const Map& map) const {
    return fmt::format("/proc/{}/map_files/{:x}-{:x}", process_.pid, map.start, map.end);
  }

  // Shared anonymous memory, memfds, deleted files, AIO rings and plain files.
  Status backed(const Map& map, image::Vma& out) {
    // A library has several maps in a row.
    if (last_file_ && last_file_->device == map.device && last_file_->inode == map.inode &&
        last_file_->map_name == map.name) {
      put_file(*last_file_, map, out);
      return Status::ok();
    }
    const std::string link = link_of(map);
    FERMATA_ASSIGN_STATUS(const std::string name, read_link(link));
    if (name.starts_with("/[aio]")) {
      out.set_backing(image::Vma::AIO_RING);  // its content: image::AioContext
      return Status::ok();
    }
    if (name.starts_with("/SYSV")) {
      return cannot(map,
                    "is System V shared memory, which cannot be rebuilt yet: use POSIX shared "
                    "memory (shm_open)");
    }
    struct stat mapped {};
    FERMATA_TRY(stat_mapped(map, mapped));
    const SharedObjectKind kind = SharedObjectRecorder::kind_of(name);
    const bool deleted = name.ends_with(" (deleted)") && !names(name, mapped);
    if (map.has_flag("ht") && kind == image::SharedObject::DELETED) {
      return cannot(map, "is of a file of huge pages" + std::string(kInstead));
    }
    if (kind != image::SharedObject::DELETED || deleted) return object(map, link, name, kind, out);
    if (!S_ISREG(mapped.st_mode)) {
      return cannot(map, "is of a device, which cannot be rebuilt");
    }
    if (!names(name, mapped)) {
      return cannot(map, "is of a file that its path no longer leads to inside the pod");
    }
    last_file_ = {map.device, map.inode, map.name, name, mapped};
    put_file(*last_file_, map, out);
    return Status::ok();
  }

  /// A file that its path leads to.
  struct NamedFile {
    uint64_t device;
    uint64_t inode;
    std::string map_name;  ///< as /proc/PID/maps writes it
    std::string name;
    struct stat status;
  };

  static void put_file(const NamedFile& file, const Map& map, image::Vma& out) {
    out.set_backing(image::Vma::FILE);
    out.set_path(file.name);
    out.set_file_size(static_cast<uint64_t>(file.status.st_size));
    out.set_file_mtime_sec(file.status.st_mtim.tv_sec);
    out.set_file_mtime_nsec(file.status.st_mtim.tv_nsec);
    out.set_file_writable(map.shared && map.has_flag("mw"));
  }

  using SharedObjectKind = image::SharedObject::Kind;

  Status object(const Map& map, const std::string& link, const std::string& name,
                SharedObjectKind kind, image::Vma& out) {
    UniqueFd file(::open(link.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) {
      return errno_status(errno, fmt::format("{}: opening what is mapped at {:#x} ({})",
                                             process_.describe(), map.start, name));
    }
    FERMATA_ASSIGN_STATUS(const uint32_t id, recorder_.record(std::move(file), name, kind));
    out.set_backing(image::Vma::OBJECT);
    out.set_object_id(id);
    return Status::ok();
  }

  /// Whether `path` in the pod leads to the file of `status`.
  bool names(const std::string& path, const struct stat& status) const {
    struct stat found {};
    const std::string in_pod = fmt::format("/proc/{}/root{}", init_, path);
    return ::stat(in_pod.c_str(), &found) == 0 && found.st_dev == status.st_dev &&
           found.st_ino == status.st_ino;
  }

  const HeldProcess& process_;
  pid_t init_;
  SharedObjectRecorder& recorder_;
  const PageFinder& finder_;
  std::optional<NamedFile> last_file_;
};

}  // namespace

Status capture_address_space(HeldProcess& process, pid_t init, SharedObjectRecorder& recorder,
                             const PageFinder& finder, PageSearch& search, image::Process& out) {
  FERMATA_ASSIGN_STATUS(const std::vector<Map> maps, MapFlags::of_this_kernel().read(process.pid));
  MapRecorder map_recorder(process, init, recorder, finder);
  OwnMaps own;
  Extents not_pinned;
  for (const Map& map : maps) {
    if (map.name == "[vsyscall]" || process.site->is_scratch(map.start, map.end)) continue;
    image::Vma& vma = *out.add_vmas();
    FERMATA_TRY(map_recorder.record(map, vma));
    const bool own_pages = !vma.shared() && !vma.dont_dump() && vma.backing() != image::Vma::VDSO &&
                           vma.backing() != image::Vma::VVAR &&
                           vma.backing() != image::Vma::AIO_RING;
    if (own_pages) {
      const bool huge = vma.huge_page_size() != 0;
      own.all.push_back(
          {map.start, map.end, map.inode == 0 || huge, (map.protection & PROT_WRITE) != 0, huge});
      (is_left_out(vma) ? own.not_in_twin : own.in_twin).push_back(own.all.back());
      if (huge) append(not_pinned, map.start, map.length());
    }
  }
  const StoppedProcess stopped{process.pid, process.vpid, [&process]() -> Result<Remote*> {
                                 FERMATA_ASSIGN(CaptureRemote * leader,
                                                remote_of(process, process.leader()));
                                 return leader;
                               }};
  MemoryRegion region;
  region.id = {MemoryId::Kind::kProcess, static_cast<uint64_t>(process.vpid)};
  FERMATA_ASSIGN_STATUS(region.source, ProcessMemorySource::open(process.pid, not_pinned));
  return search.add(stopped, std::move(own), std::move(region));
}

bool is_left_out(const image::Vma& vma) {
  return vma.huge_page_size() != 0 ||
         std::any_of(vma.advice().begin(), vma.advice().end(), [](int advice) {
           return advice == MADV_DONTFORK || advice == MADV_WIPEONFORK;
         });
}

bool overlaps(const image::Process& process, uint64_t start, uint64_t end) {
  return std::any_of(process.vmas().begin(), process.vmas().end(),
                     [&](const image::Vma& vma) { return vma.start() < end && start < vma.end(); });
}

}  // namespace fermata::engine
