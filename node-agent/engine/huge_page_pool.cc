// Huge pages of MAP_HUGETLB come from pools of the machine, one for each size
// (Documentation/admin-guide/mm/hugetlbpage.rst), and a program that finds its pool empty is ended.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "common/extents.h"
#include "common/file_util.h"
#include "node-agent/engine/rebuild.h"
#include "node-agent/engine/shared_objects.h"

namespace fermata::engine {
namespace {

struct Pool {
  uint64_t pages = 0;  ///< that there are
  uint64_t free = 0;   ///< that may be reserved
};

uint64_t number_in(const std::string& file) {
  return std::strtoull(read_file(file).value_or("0").c_str(), nullptr, 10);
}

std::string folder_of(uint64_t page_size) {
  return fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB/", page_size >> 10);
}

Pool pool_of(uint64_t page_size) {
  const std::string folder = folder_of(page_size);
  // For a moment the kernel may count less than none (seen in Linux 6.18 while such maps went); it
  // reckons with signs itself (gather_surplus_pages() of mm/hugetlb.c).
  const auto counted = static_cast<int64_t>(number_in(folder + "resv_hugepages"));
  const auto reserved = static_cast<uint64_t>(std::max<int64_t>(counted, 0));
  const uint64_t more = number_in(folder + "nr_overcommit_hugepages");
  const uint64_t surplus = number_in(folder + "surplus_hugepages");
  const uint64_t there = number_in(folder + "free_hugepages") + more;
  const uint64_t gone = reserved + std::min(more, surplus);
  return {number_in(folder + "nr_hugepages"), there - std::min(there, gone)};
}

/// Pages that some bytes lie in.
uint64_t pages_with(const Extents& bytes, uint64_t size) {
  uint64_t pages = 0;
  uint64_t done = 0;  // what lies before is counted
  for (const Extent& extent : bytes) {
    const uint64_t start = std::max(done, extent.address / size * size);
    const uint64_t end = (extent.address + extent.length + size - 1) / size * size;
    if (end <= start) continue;
    pages += (end - start) / size;
    done = end;
  }
  return pages;
}

const Extents& contents(const std::vector<MemoryRegion>& memory, MemoryId::Kind kind, uint64_t id) {
  static const Extents none;
  const MemoryRegion* region = find_region(memory, {kind, id});
  return region != nullptr ? region->extents : none;
}

/// Number of pages by their size. mmap(2) reserves the whole map.
std::map<uint64_t, uint64_t> needed_pages(const image::PodObjects& objects,
                                          const std::vector<MemoryRegion>& memory) {
  std::map<uint64_t, uint64_t> needed;
  std::map<uint32_t, Extents> mapped;  // of shared objects
  for (const image::Process& process : objects.processes()) {
    const auto vpid = static_cast<uint64_t>(process.vpid());
    const Extents& filled = contents(memory, MemoryId::Kind::kProcess, vpid);
    for (const image::Vma& vma : process.vmas()) {
      const uint64_t length = vma.end() - vma.start();
      if (vma.backing() == image::Vma::OBJECT && !vma.no_reserve()) {
        Extents& all = mapped[vma.object_id()];
        all = united(all, {{vma.offset(), length}});
      }
      const uint64_t size = vma.huge_page_size();
      if (size == 0) continue;
      const Extents bytes = vma.no_reserve() ? part_of(filled, vma.start(), vma.end())
                                             : Extents{{vma.start(), length}};
      needed[size] += pages_with(bytes, size);
    }
  }
  for (const image::SharedObject& object : objects.shared_objects()) {
    const uint64_t size = object.huge_page_size();
    if (size == 0) continue;
    const Extents& filled = contents(memory, MemoryId::Kind::kObject, object.id());
    const Extents bytes = united(filled, mapped[object.id()]);
    needed[size] += pages_with(bytes, size);
  }
  return needed;
}

}  // namespace

Status check_huge_pages(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory) {
  for (const auto& [size, pages] : needed_pages(objects, memory)) {
    const Pool pool = pool_of(size);
    if (pages <= pool.free) continue;
    // The size that the sysctl is for.
    const bool usual =
        read_file("/proc/meminfo")
            .value_or("")
            .find(fmt::format("\nHugepagesize: {:>10} kB", size >> 10)) != std::string::npos;
    return {Code::kUnsupported,
            fmt::format("the job needs {} huge pages of {} KiB (MAP_HUGETLB), and {} of this "
                        "machine's {} are free: set {} to {} or more",
                        pages, size >> 10, pool.free, pool.pages,
                        usual ? "vm.nr_hugepages (sysctl)" : folder_of(size) + "nr_hugepages",
                        pool.pages + pages - pool.free)};
  }
  return Status::ok();
}

}  // namespace fermata::engine
