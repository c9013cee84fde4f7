#include "node-agent/engine/pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/extents.h"
#include "node-agent/engine/pagemap_scan.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kEntryPresent = 1ULL << 63;
constexpr uint64_t kEntrySwapped = 1ULL << 62;
constexpr uint64_t kEntryFile = 1ULL << 61;
constexpr uint64_t kEntryFrame = (1ULL << 55) - 1;
// Of an entry in swap: its type. The last is of marks where no page is (include/linux/swap.h,
// SWP_PTE_MARKER), those of userfaultfd among them. Any kernel that has PAGEMAP_SCAN.
constexpr uint64_t kSwapTypes = (1 << 5) - 1;
constexpr uint64_t kMarkerType = kSwapTypes;

/// The frame of the kernel's page of zeros, which private maps share wherever they were only read;
/// 0 where it cannot be told (frames are for CAP_SYS_ADMIN alone).
uint64_t frame_of_zeros() {
  static const uint64_t frame = [] {
    void* page = ::mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return uint64_t{0};
    [[maybe_unused]] const auto touched = *static_cast<volatile const char*>(page);
    uint64_t entry = 0;
    const Result<UniqueFd> pagemap = open_pagemap(::getpid());
    const auto at = static_cast<off_t>(reinterpret_cast<uint64_t>(page) / kPageSize * sizeof entry);
    const bool read = pagemap && ::pread(pagemap->get(), &entry, sizeof entry, at) == sizeof entry;
    ::munmap(page, kPageSize);
    return read && (entry & kEntryPresent) != 0 ? entry & kEntryFrame : 0;
  }();
  return frame;
}

}  // namespace

Result<PageScanner> PageScanner::open(pid_t pid) {
  FERMATA_ASSIGN(UniqueFd pagemap, open_pagemap(pid));
  return PageScanner(std::move(pagemap));
}

Status PageScanner::scan(uint64_t start, uint64_t end, Backing backing,
                         std::vector<Extent>& extents) const {
  // Present or swapped, and neither the shared page of zeros nor a page of a file: to look up what
  // a page is of costs the kernel four times the rest.
  const uint64_t none = backing == Backing::kFile ? kPageIsFile | kPageIsZero : kPageIsZero;
  Status swapped;
  Status status =
      scan_pages(pagemap_.get(), start, end, {.none = none, .any = kPageIsPresent | kPageIsSwapped},
                 [&](uint64_t from, uint64_t to, uint64_t is) {
                   if ((is & kPageIsPresent) != 0) {
                     append(extents, from, to - from);
                   } else if (swapped) {
                     swapped = add_swapped(from, to, extents);
                   }
                 });
  if (status.code() == Code::kUnsupported) return scan_by_reading(start, end, extents);
  return status ? swapped : status;
}

/// What the scan takes for pages in swap, without the marks where there are none.
Status PageScanner::add_swapped(uint64_t start, uint64_t end, std::vector<Extent>& extents) const {
  return read_entries(start, end, [&](uint64_t page, uint64_t entry) {
    const bool mark = (entry & kEntrySwapped) != 0 && (entry & kSwapTypes) == kMarkerType;
    if (!mark) append(extents, page, kPageSize);
  });
}

Status PageScanner::scan_by_reading(uint64_t start, uint64_t end,
                                    std::vector<Extent>& extents) const {
  return read_entries(start, end, [&](uint64_t page, uint64_t entry) {
    const bool there = (entry & (kEntryPresent | kEntrySwapped)) != 0;
    // Of a swapped page the bit "file" says shared memory, which private maps do not have.
    const bool zeros = (entry & kEntryPresent) != 0 && frame_of_zeros() != 0 &&
                       (entry & kEntryFrame) == frame_of_zeros();
    if (there && !zeros && (entry & kEntryFile) == 0) append(extents, page, kPageSize);
  });
}

Status PageScanner::read_entries(uint64_t start, uint64_t end, const Entry& found) const {
  constexpr uint64_t kMost = 65536;
  std::vector<uint64_t> entries(std::min(kMost, (end - start) / kPageSize));
  for (uint64_t at = start; at < end;) {
    const size_t want =
        static_cast<size_t>(std::min<uint64_t>(entries.size(), (end - at) / kPageSize));
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), want * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got <= 0) return errno_status(got == 0 ? EIO : errno, "reading the page map");
    const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
    for (size_t i = 0; i < count; ++i) found(at + i * kPageSize, entries[i]);
    at += count * kPageSize;
  }
  return Status::ok();
}

Result<std::shared_ptr<const MemorySource>> ProcessMemorySource::open(pid_t pid,
                                                                      Extents not_pinned) {
  UniqueFd memory(::open(fmt::format("/proc/{}/mem", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return errno_failure(errno, fmt::format("opening the memory of process {}", pid));
  return std::shared_ptr<const MemorySource>(
      std::make_shared<ProcessMemorySource>(pid, std::move(memory), std::move(not_pinned)));
}

Status ProcessMemorySource::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(memory_.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(address + done));
    if (n <= 0) {
      return errno_status(n == 0 ? EIO : errno, fmt::format("reading memory at {:#x} of process {}",
                                                            address + done, pid_));
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Status ProcessMemorySource::read_scattered(std::span<const MemoryPiece> pieces) const {
  if (not_pinned_.empty()) return read_pinned(pieces);
  std::vector<MemoryPiece> others;
  for (const MemoryPiece& piece : pieces) {
    if (part_of(not_pinned_, piece.address, piece.address + piece.out.size()).empty()) {
      others.push_back(piece);
    } else {
      FERMATA_TRY(read(piece.address, piece.out));
    }
  }
  return read_pinned(others);
}

Status ProcessMemorySource::read_pinned(std::span<const MemoryPiece> pieces) const {
  constexpr size_t kMost = 512;
  constexpr size_t kFew = 16;  // where one could not be read, the next often cannot either
  std::array<iovec, kMost> there{};
  std::array<iovec, kMost> here{};
  size_t most = kMost;
  while (!pieces.empty()) {
    const std::span<const MemoryPiece> some = pieces.first(std::min(most, pieces.size()));
    for (size_t i = 0; i < some.size(); ++i) {
      there.at(i) = {reinterpret_cast<void*>(some[i].address), some[i].out.size()};
      here.at(i) = {some[i].out.data(), some[i].out.size()};
    }
    const ssize_t got =
        ::process_vm_readv(pid_, here.data(), some.size(), there.data(), some.size(), 0);
    // It ends at the first page that the program itself may not read (process_vm_readv(2)).
    size_t whole = 0;
    for (size_t left = got > 0 ? static_cast<size_t>(got) : 0;
         whole < some.size() && some[whole].out.size() <= left; ++whole) {
      left -= some[whole].out.size();
    }
    most = whole == some.size() ? kMost : kFew;
    if (whole < some.size()) {
      FERMATA_TRY(read(some[whole].address, some[whole].out));
      ++whole;
    }
    pieces = pieces.subspan(whole);
  }
  return Status::ok();
}

Status FileMemorySource::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(file_.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(address + done));
    if (n < 0) return errno_status(errno, fmt::format("reading shared memory at {:#x}", address));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  std::memset(out.data() + done, 0, out.size() - done);
  return Status::ok();
}

Result<std::vector<Extent>> data_extents(int fd, uint64_t size) {
  std::vector<Extent> extents;
  uint64_t at = 0;
  while (at < size) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data < 0) {
      // A file system without SEEK_DATA: all of it is data.
      extents.assign(1, {0, (size + kPageSize - 1) / kPageSize * kPageSize, Where::kHere});
      return extents;
    }
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return errno_failure(errno, "looking for the end of data");
    const uint64_t start = static_cast<uint64_t>(data) / kPageSize * kPageSize;
    const uint64_t end = (static_cast<uint64_t>(hole) + kPageSize - 1) / kPageSize * kPageSize;
    append(extents, start, end - start);
    at = end;
  }
  return extents;
}

}  // namespace fermata::engine
