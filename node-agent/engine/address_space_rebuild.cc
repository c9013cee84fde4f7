// The other half of address_space.h: maps and contents of a process under construction.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "common/log.h"
#include "node-agent/engine/address_space.h"
#include "node-agent/engine/fill.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kArchMapVdso64 = 0x2003;  // arch_prctl(2), with CONFIG_CHECKPOINT_RESTORE
constexpr uint64_t kPrSetVma = 0x53564d41;   // PR_SET_VMA, PR_SET_VMA_ANON_NAME: Linux 5.17

bool is_special(const image::Vma& vma) {
  return vma.backing() == image::Vma::VDSO || vma.backing() == image::Vma::VVAR ||
         vma.backing() == image::Vma::AIO_RING;
}

/// Whether any page of the map is in the image.
bool has_contents(const image::Vma& vma, const MemoryRegion& region) {
  const auto first = std::partition_point(
      region.extents.begin(), region.extents.end(),
      [&](const Extent& extent) { return extent.address + extent.length <= vma.start(); });
  return first != region.extents.end() && first->address < vma.end();
}

/// A private map is writable until its contents are in. One without contents has its final
/// protection at once: a large reservation must not be charged as memory (PROT_NONE, overcommit).
uint64_t building_protection(const image::Vma& vma, const MemoryRegion& region) {
  const bool fill = !vma.shared() && has_contents(vma, region);
  return fill ? vma.protection() | PROT_READ | PROT_WRITE : vma.protection();
}

uint64_t map_flags(const image::Vma& vma) {
  uint64_t flags = MAP_FIXED_NOREPLACE;
  flags |= vma.shared() ? MAP_SHARED : MAP_PRIVATE;
  if (vma.backing() == image::Vma::ANONYMOUS) flags |= MAP_ANONYMOUS;
  if (vma.grows_down()) flags |= MAP_GROWSDOWN;
  if (vma.no_reserve()) flags |= MAP_NORESERVE;
  if (vma.huge_page_size() != 0) {
    flags |= MAP_HUGETLB;
    flags |= static_cast<uint64_t>(std::countr_zero(vma.huge_page_size())) << MAP_HUGE_SHIFT;
  }
  return flags;
}

Status check_file(pid_t init, const image::Process& process, const image::Vma& vma) {
  const std::string path = fmt::format("/proc/{}/root{}", init, vma.path());
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    return errno_status(
        errno, fmt::format("process {} ({}) maps {}", process.vpid(), process.name(), vma.path()));
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  // What a private map has not changed is still read from the file: it must be the same file.
  const bool changed = size != vma.file_size() || status.st_mtim.tv_sec != vma.file_mtime_sec() ||
                       status.st_mtim.tv_nsec != vma.file_mtime_nsec();
  // Files of the pod's own /dev/shm were made anew just now.
  const bool remade = vma.path().starts_with("/dev/shm/");
  if (vma.shared() || remade ? size < vma.file_size() : changed) {
    return {Code::kConflict,
            fmt::format("{} has changed since the checkpoint (it had {} bytes): process {} ({}) "
                        "maps it and cannot go on with another version",
                        vma.path(), vma.file_size(), process.vpid(), process.name())};
  }
  return Status::ok();
}

/// The vvar pages lie right before the vDSO and are made with it.
Status map_vdso(RebuildRemote& remote, const image::Process& process) {
  uint64_t start = 0;
  for (const image::Vma& vma : process.vmas()) {
    const bool part = vma.backing() == image::Vma::VVAR || vma.backing() == image::Vma::VDSO;
    if (part && (start == 0 || vma.start() < start)) start = vma.start();
  }
  if (start == 0) return Status::ok();
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long mapped,
      remote.call("mapping the vDSO (ARCH_MAP_VDSO_64)", SYS_arch_prctl, {kArchMapVdso64, start}));
  return Status::ok();
}

Status map_object(RebuildRemote& remote, const image::Vma& vma, const MemoryRegion& region,
                  int file) {
  FERMATA_ASSIGN_STATUS(const int fd, remote.give_fd(file, -1, true));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long mapped,
      remote.call(fmt::format("mapping shared object {}", vma.object_id()), SYS_mmap,
                  {vma.start(), vma.end() - vma.start(), building_protection(vma, region),
                   map_flags(vma), static_cast<uint64_t>(fd), vma.offset()}));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long closed,
                        remote.call("close", SYS_close, {static_cast<uint64_t>(fd)}));
  return Status::ok();
}

Status map_file(RebuildRemote& remote, const image::Vma& vma, const MemoryRegion& region) {
  FERMATA_ASSIGN_STATUS(const uint64_t path, remote.put_string(vma.path()));
  const bool write = vma.shared() && vma.file_writable();
  // No file is open in the process yet: this one gets number 0.
  std::array<RemoteCall, 3> calls{
      RemoteCall{SYS_openat,
                 {static_cast<uint64_t>(AT_FDCWD), path,
                  static_cast<uint64_t>(write ? O_RDWR : O_RDONLY) | O_CLOEXEC},
                 0},
      RemoteCall{SYS_mmap,
                 {vma.start(), vma.end() - vma.start(), building_protection(vma, region),
                  map_flags(vma), 0, vma.offset()},
                 0},
      RemoteCall{SYS_close, {0}, 0}};
  FERMATA_TRY(remote.run(calls));
  if (calls[0].result != 0) {
    const int err = calls[0].result < 0 ? static_cast<int>(-calls[0].result) : EBUSY;
    return errno_status(err, fmt::format("opening {} to map it", vma.path()));
  }
  if (calls[1].result < 0 && calls[1].result >= -4095) {
    return errno_status(static_cast<int>(-calls[1].result),
                        fmt::format("mapping {} at {:#x}", vma.path(), vma.start()));
  }
  return Status::ok();
}

Status map_anonymous(RebuildRemote& remote, const std::vector<const image::Vma*>& vmas,
                     const MemoryRegion& region) {
  std::vector<RemoteCall> calls;
  calls.reserve(vmas.size());
  for (const image::Vma* vma : vmas) {
    calls.push_back({SYS_mmap,
                     {vma->start(), vma->end() - vma->start(), building_protection(*vma, region),
                      map_flags(*vma), ~0ULL, 0},
                     0});
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0 && one.result >= -4095) {
      const bool huge = (one.args[3] & MAP_HUGETLB) != 0;
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("mapping {} bytes {}at {:#x}", one.args[1],
                                      huge ? "of huge pages (vm.nr_hugepages) " : "", one.args[0]));
    }
  }
  return Status::ok();
}

Status apply_final(RebuildRemote& remote, const image::Process& process,
                   const MemoryRegion& region) {
  std::vector<RemoteCall> calls;
  for (const image::Vma& vma : process.vmas()) {
    if (is_special(vma)) continue;
    const uint64_t length = vma.end() - vma.start();
    if (building_protection(vma, region) != vma.protection()) {
      calls.push_back({SYS_mprotect, {vma.start(), length, vma.protection()}, 0});
    }
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result != 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("the final protection of the map at {:#x}", one.args[0]));
    }
  }
  // Locks are a wish where limits are lower than they were.
  for (const image::Vma& vma : process.vmas()) {
    if (!vma.locked() || is_special(vma)) continue;
    const Result<long> locked =
        remote.call("mlock", SYS_mlock, {vma.start(), vma.end() - vma.start()});
    if (!locked) {
      log_warning(fmt::format("process {}: memory at {:#x} is not locked again: {}", process.vpid(),
                              vma.start(), locked.error().message()));
    }
  }
  return Status::ok();
}

Status advise(RebuildRemote& remote, const image::Process& process) {
  std::vector<RemoteCall> calls;
  for (const image::Vma& vma : process.vmas()) {
    for (const int advice : vma.advice()) {
      calls.push_back(
          {SYS_madvise, {vma.start(), vma.end() - vma.start(), static_cast<uint64_t>(advice)}, 0});
    }
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result != 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("madvise({}) at {:#x}", one.args[2], one.args[0]));
    }
  }
  for (const image::Vma& vma : process.vmas()) {
    if (vma.anon_name().empty()) continue;
    FERMATA_ASSIGN_STATUS(const uint64_t name, remote.put_string(vma.anon_name()));
    RemoteCall call{SYS_prctl, {kPrSetVma, 0, vma.start(), vma.end() - vma.start(), name}, 0};
    FERMATA_TRY(remote.run(std::span(&call, 1)));  // a name is for people: an old kernel has none
  }
  return Status::ok();
}

Result<const MemoryRegion*> memory_of(const image::Process& process,
                                      const std::vector<MemoryRegion>& memory) {
  const MemoryRegion* region =
      find_region(memory, {MemoryId::Kind::kProcess, static_cast<uint64_t>(process.vpid())});
  if (region == nullptr) {
    return failure(Code::kDamaged,
                   fmt::format("the image has no memory of process {}", process.vpid()));
  }
  return region;
}

}  // namespace

Status rebuild_maps(RebuildRemote& remote, pid_t init, const image::Process& process,
                    const SharedObjectStore& store, const std::vector<MemoryRegion>& memory) {
  FERMATA_ASSIGN_STATUS(const MemoryRegion* region, memory_of(process, memory));
  FERMATA_TRY(map_vdso(remote, process));
  std::vector<const image::Vma*> anonymous;
  std::string checked;
  for (const image::Vma& vma : process.vmas()) {
    switch (vma.backing()) {
      case image::Vma::ANONYMOUS:
        anonymous.push_back(&vma);
        break;
      case image::Vma::FILE:
        if (vma.path() != checked) FERMATA_TRY(check_file(init, process, vma));
        checked = vma.path();
        FERMATA_TRY(map_file(remote, vma, *region));
        break;
      case image::Vma::OBJECT: {
        FERMATA_ASSIGN_STATUS(const int file, store.fd(vma.object_id()));
        FERMATA_TRY(map_object(remote, vma, *region, file));
        break;
      }
      default:
        break;
    }
  }
  FERMATA_TRY(map_anonymous(remote, anonymous, *region));
  return advise(remote, process);
}

Status rebuild_contents(RebuildRemote& remote, const image::Process& process,
                        const std::vector<MemoryRegion>& memory, LazyFill* lazy) {
  FERMATA_ASSIGN_STATUS(const MemoryRegion* region, memory_of(process, memory));
  if (lazy == nullptr) {
    FERMATA_TRY(fill_memory(remote.pid(), *region));
  } else {
    MemoryRegion now = *region;
    FERMATA_ASSIGN_STATUS(now.extents, lazy->take(remote, process, *region));
    FERMATA_TRY(fill_memory(remote.pid(), now));
  }
  return apply_final(remote, process, *region);
}

Result<uint64_t> find_vdso_syscall(RebuildRemote& remote, const image::Process& process) {
  for (const image::Vma& vma : process.vmas()) {
    if (vma.backing() != image::Vma::VDSO) continue;
    std::vector<std::byte> text(vma.end() - vma.start());
    FERMATA_TRY_RESULT(remote.read_memory(vma.start(), text));
    const std::array<std::byte, 2> want{std::byte{0x0f}, std::byte{0x05}};
    const auto at = std::search(text.begin(), text.end(), want.begin(), want.end());
    if (at != text.end()) return vma.start() + static_cast<uint64_t>(at - text.begin());
  }
  return failure(Code::kUnsupported,
                 fmt::format("process {} has no vDSO with a syscall instruction", process.vpid()));
}

}  // namespace fermata::engine
