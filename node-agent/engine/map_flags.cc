#include "node-agent/engine/map_flags.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "common/log.h"
#include "common/memory_image.h"

namespace fermata::engine {
namespace {

// What programs ask for, and what it is asked by.
constexpr std::array kAdvice{MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTFORK,  MADV_WIPEONFORK,
                             MADV_DONTDUMP, MADV_RANDOM,     MADV_SEQUENTIAL};
constexpr std::array kKinds{MAP_PRIVATE, MAP_SHARED, MAP_PRIVATE | MAP_NORESERVE,
                            MAP_PRIVATE | MAP_GROWSDOWN};

/// A page of ours that stands apart from others, so that it is a map of its own.
class OwnPage {
 public:
  OwnPage(int kind, int advice) {
    constexpr int kNowhere = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    room_ = ::mmap(nullptr, kRoom, PROT_NONE, kNowhere, -1, 0);
    if (room_ == MAP_FAILED) return;
    page_ = static_cast<std::byte*>(room_) + kRoom / 2;
    page_ =
        ::mmap(page_, kPageSize, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (page_ != MAP_FAILED && advice != MADV_NORMAL) ::madvise(page_, kPageSize, advice);
  }
  OwnPage(const OwnPage&) = delete;
  OwnPage& operator=(const OwnPage&) = delete;
  ~OwnPage() {
    if (room_ != MAP_FAILED) ::munmap(room_, kRoom);
  }

  bool is_at(uint64_t start, uint64_t end) const {
    return start == reinterpret_cast<uint64_t>(page_) && end == start + kPageSize;
  }

 private:
  static constexpr size_t kRoom = 512 * kPageSize;  // more than a gap below what grows down
  void* room_ = MAP_FAILED;
  void* page_ = MAP_FAILED;
};

/// Calls `pair` for each map and the flags of the same bounds; false: some map has none.
template <typename Maps, typename Pair>
bool for_all_pairs(Maps& maps, const std::vector<VmaFlags>& flags, const Pair& pair) {
  auto at = flags.begin();
  for (auto& map : maps) {
    if (map.name == "[vsyscall]") continue;  // of all processes alike, and of none
    at = std::find_if(at, flags.end(), [&](const VmaFlags& one) { return one.start >= map.start; });
    if (at == flags.end() || at->start != map.start || at->end != map.end) return false;
    if (!pair(map, at->flags)) return false;
  }
  return true;
}

}  // namespace

void FlagNames::learn(uint64_t flags, const Map& map) {
  // A protection key is told in other words.
  if (static_cast<size_t>(std::popcount(flags)) != map.flags.size()) return;
  auto name = map.flags.begin();
  for (uint64_t rest = flags; rest != 0; rest &= rest - 1) {
    names_.at(static_cast<size_t>(std::countr_zero(rest))) = *name++;
  }
}

bool FlagNames::name(uint64_t flags, Map& map) const {
  map.flags.clear();
  for (uint64_t rest = flags; rest != 0; rest &= rest - 1) {
    const std::string& name = names_.at(static_cast<size_t>(std::countr_zero(rest)));
    if (name.empty()) return false;
    map.flags.push_back(name);
  }
  return true;
}

MapFlags& MapFlags::of_this_kernel() {
  static MapFlags flags;
  return flags;
}

MapFlags::MapFlags() {
  Result<std::unique_ptr<VmaFlagReader>> reader = VmaFlagReader::load();
  if (!reader) {
    log_debug(
        fmt::format("flags of maps come from smaps, which takes 12 ms a GiB of a stopped "
                    "job: {}",
                    reader.error().message()));
    return;
  }
  reader_ = *std::move(reader);
  learn_from_own_maps();
}

uint64_t MapFlags::slow_reads() const {
  const std::lock_guard lock(mutex_);
  return slow_reads_;
}

void MapFlags::learn_from_own_maps() {
  std::vector<std::unique_ptr<OwnPage>> pages;
  for (const int kind : kKinds) pages.push_back(std::make_unique<OwnPage>(kind, MADV_NORMAL));
  for (const int advice : kAdvice) pages.push_back(std::make_unique<OwnPage>(MAP_PRIVATE, advice));
  Result<std::vector<Map>> maps = read_smaps(::getpid());
  const Result<std::vector<VmaFlags>> flags = reader_->read(::getpid());
  if (!maps || !flags) return;
  // The others may change under our eyes.
  std::erase_if(*maps, [&](const Map& map) {
    return std::none_of(pages.begin(), pages.end(),
                        [&](const auto& page) { return page->is_at(map.start, map.end); });
  });
  learn(*maps, *flags);
}

void MapFlags::learn(const std::vector<Map>& maps, const std::vector<VmaFlags>& flags) {
  for_all_pairs(maps, flags, [&](const Map& map, uint64_t number) {
    names_.learn(number, map);
    return true;
  });
}

bool MapFlags::name_all(std::vector<Map>& maps, const std::vector<VmaFlags>& flags) const {
  return for_all_pairs(maps, flags,
                       [&](Map& map, uint64_t number) { return names_.name(number, map); });
}

Result<std::vector<Map>> MapFlags::read(pid_t pid) {
  Result<std::vector<VmaFlags>> flags = std::vector<VmaFlags>();
  if (reader_) flags = reader_->read(pid);
  if (reader_ && flags) {
    FERMATA_ASSIGN(std::vector<Map> maps, read_maps(pid));
    const std::lock_guard lock(mutex_);
    if (name_all(maps, *flags)) return maps;
  }
  if (!flags) log_debug(flags.error().message());
  FERMATA_ASSIGN(std::vector<Map> maps, read_smaps(pid));
  const std::lock_guard lock(mutex_);
  ++slow_reads_;
  if (flags) learn(maps, *flags);
  return maps;
}

}  // namespace fermata::engine
