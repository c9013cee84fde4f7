#include "node-agent/snapshot.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/log.h"
#include "common/size_parse.h"
#include "node-agent/patched_source.h"
#include "node-agent/water_marks.h"

namespace fermata::node_agent {
namespace {

constexpr unsigned kThreads = 2;  // more gain little: memory is shared with the job

// First touch of memory that was not warmed.
constexpr double kColdBytesPerSecond = 0.3e9;

// So long a fork may take beside the capture, unseen.
constexpr double kHidden = 0.005;

// Of copies ahead: so little is copied at once, and no less a round is worth another.
constexpr uint64_t kQuick = 8 << 20;
constexpr double kConverges = 0.7;
constexpr std::string_view kAhead = "precopy";
constexpr const char* kWanted = "FERMATA_SNAPSHOT";
constexpr std::string_view kBudget = "bounded:";
// Page tables of twins, a page for each 512, and what else a process takes.
constexpr uint64_t kBytesPerByteOfTables = 400;
constexpr uint64_t kProcessTakes = 256 << 10;
// The other pods of a set wait for this.
constexpr std::chrono::seconds kAheadAtMost{20};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

uint64_t bytes_here(const std::vector<MemoryRegion>& regions) {
  uint64_t sum = 0;
  for (const MemoryRegion& region : regions) sum += region.bytes_here();
  return sum;
}

/// What no twin has, but for what the program keeps from its children: that is little.
uint64_t bytes_beside_twins(const std::vector<MemoryRegion>& regions,
                            const image::PodObjects& objects) {
  uint64_t sum = 0;
  for (const MemoryRegion& region : regions) {
    if (region.id.kind == MemoryId::Kind::kObject) sum += region.bytes_here();
  }
  for (const image::Process& process : objects.processes()) {
    for (const image::Vma& vma : process.vmas()) {
      if (vma.huge_page_size() == 0) continue;
      const MemoryId id{MemoryId::Kind::kProcess, static_cast<uint64_t>(process.vpid())};
      const auto region = std::find_if(regions.begin(), regions.end(),
                                       [&](const MemoryRegion& one) { return one.id == id; });
      if (region == regions.end()) continue;
      sum += total_length(only(part_of(region->extents, vma.start(), vma.end()), Where::kHere));
    }
  }
  return sum;
}

}  // namespace

std::string_view Snapshot::name_of(Way way) {
  switch (way) {
    case Way::kTwin:
      return "twin";
    case Way::kCopy:
      return "copy";
    case Way::kBounded:
      return "bounded";
    case Way::kStopped:
      return "stopped";
  }
  return "?";
}

unsigned writers_of(const MemoryUse& use) {
  return static_cast<unsigned>(
      std::min<uint64_t>(use.threads, std::max(std::thread::hardware_concurrency(), 1U)));
}

std::optional<uint64_t> Snapshot::budget() {
  const char* wanted = ::secure_getenv(kWanted);
  if (wanted == nullptr || !std::string_view(wanted).starts_with(kBudget)) return std::nullopt;
  const Result<uint64_t> size = parse_size(wanted + kBudget.size());
  if (size) return *size;
  return std::nullopt;
}

bool Snapshot::room_for_twins() const {
  // Both may count for the same limit.
  return need_.use.own + need_.use.shared <= need_.room_of_pod && need_.use.shared <= need_.room;
}

/// The way where there is room for no other.
Snapshot::Way Snapshot::without_room() const {
  const uint64_t tables =
      need_.use.own / kBytesPerByteOfTables + need_.use.processes * kProcessTakes;
  const uint64_t left = need_.head_room - std::min(need_.head_room, tables);
  const bool can_be_bounded = too_tight_ == 0 && need_.use.shared <= need_.room &&
                              WaterMarks::of(left, writers_of(need_.use), need_.reserved);
  return can_be_bounded ? Way::kBounded : Way::kStopped;
}

std::string_view Snapshot::name() const {
  return way_ == Way::kCopy && ahead_.begun() ? kAhead : name_of(way_);
}

void Snapshot::prepare_stopped() {
  way_ = Way::kStopped;
  ahead_.begin();
}

std::optional<uint64_t> Snapshot::copy_ahead(const SnapshotNeed& need, uint64_t changed,
                                             WriteTracking& tracking,
                                             const std::filesystem::path& group, unsigned rounds) {
  ahead_.begin();
  const char* wanted = ::secure_getenv(kWanted);
  const bool forced = wanted != nullptr && kAhead == wanted;
  const uint64_t all = need.changed + need.use.shared;
  if (rounds == 0 || (wanted != nullptr && !forced)) return std::nullopt;
  // What is written again has its place already, but what is copied at the cut needs another.
  if (!forced && (all <= kQuick || all + all / 4 > need.room)) return std::nullopt;
  const auto until = std::chrono::steady_clock::now() + kAheadAtMost;
  uint64_t first = 0;
  uint64_t last = 0;
  // The first time it is all; what each later one finds tells what the cut would have found.
  for (unsigned round = 0; round <= rounds; ++round) {
    const std::vector<MemoryRegion> pages = tracking.take(group, round == 0);
    const uint64_t bytes = bytes_here(pages);
    if (const Status copied = ahead_.add(pages, until); !copied) {
      log_info(fmt::format("nothing is copied ahead: {}", copied.message()));
      ahead_.begin();
      return std::nullopt;
    }
    log_debug(fmt::format("round {} of copies ahead: {} bytes", round, bytes));
    const bool less =
        round == 0 || static_cast<double>(bytes) < kConverges * static_cast<double>(last);
    if (round == 0) first = bytes;
    last = bytes;
    if (bytes == 0 || (round > 0 && (bytes <= kQuick || !less))) break;
    if (std::chrono::steady_clock::now() > until) break;
  }
  // What is not tracked is copied at the cut.
  return changed - std::min(changed, first) + last;
}

/// False: there is not room for either of the quick ways.
bool Snapshot::choose(const SnapshotNeed& need) {
  const char* wanted = ::secure_getenv(kWanted);
  if (wanted != nullptr && kAhead == wanted) {
    forced_ = true;
    way_ = Way::kCopy;
    return true;
  }
  for (const Way way : {Way::kTwin, Way::kCopy, Way::kBounded, Way::kStopped}) {
    forced_ = wanted != nullptr && (name_of(way) == wanted || (way == Way::kBounded && budget()));
    way_ = way;
    if (forced_) return true;
  }
  const uint64_t copied = need.changed + need.use.shared;
  const bool copy_is_quicker = cost_.of_copy(copied) <= cost_.of_twins(need.use);
  if (room_for_copy(copied) && (copy_is_quicker || !room_for_twins())) {
    way_ = Way::kCopy;
    return true;
  }
  way_ = room_for_twins() ? Way::kTwin : without_room();
  return way_ == Way::kTwin;
}

void Snapshot::prepare(const SnapshotNeed& need) {
  need_ = need;
  warmed_ = 0;
  cost_.age();
  if (too_tight_ > 0) --too_tight_;
  if (!choose(need)) {
    log_info(fmt::format(
        "the job will stand still {} its image is written: it has {} bytes, "
        "{} to be saved, and there is room for a copy of {}, or for {} that it "
        "may take itself",
        way_ == Way::kBounded ? "at times while" : "while", need.use.own + need.use.shared,
        need.changed + need.use.shared, need.room, need.room_of_pod));
  }
  if (way_ == Way::kCopy) warmed_ = need.changed + need.use.shared;
  if (by_twins()) warmed_ = need.use.shared;
  const Status warm = arena_.warm(warmed_, ahead_.size());
  if (!warm) {
    log_info(
        fmt::format("the job will stand still while its image is written: {}", warm.message()));
    way_ = Way::kStopped;
  }
}

/// Now that it is known what there is: the pod may have grown, or written more than it had.
void Snapshot::reconsider(const std::vector<MemoryRegion>& memory,
                          const image::PodObjects& objects) {
  if (way_ == Way::kStopped || forced_) return;
  const uint64_t here = bytes_here(memory);
  const uint64_t shared = bytes_beside_twins(memory, objects);
  if (way_ == Way::kCopy) {
    const double cold =
        here > warmed_ ? static_cast<double>(here - warmed_) / kColdBytesPerSecond : 0;
    const bool twin_is_quicker = cold + cost_.of_copy(here) > 2 * cost_.of_twins(need_.use);
    if (room_for_copy(here) && !(twin_is_quicker && room_for_twins())) return;
    way_ = room_for_twins() ? Way::kTwin : without_room();
  }
  if (by_twins() && !room_for_copy(shared)) way_ = Way::kStopped;
}

Result<std::vector<MemoryRegion>> Snapshot::take(engine::FrozenPod& pod,
                                                 const image::PodObjects& objects,
                                                 const WriteTracking& tracking) {
  std::vector<MemoryRegion> rest = left_to_copy(pod, tracking);
  reconsider(rest, objects);
  if (by_twins()) {
    Result<std::vector<MemoryRegion>> regions = twins(pod, objects);
    if (regions) return regions;
    FERMATA_TRY_RESULT(pod.find_pages_here());
    rest = left_to_copy(pod, tracking);
    way_ = room_for_copy(bytes_here(rest)) ? Way::kCopy : Way::kStopped;
    log_info(fmt::format("no copy-on-write twin, so {}: {}",
                         way_ == Way::kCopy ? "memory is copied" : "the job stands still",
                         regions.error().message()));
  }
  if (way_ == Way::kCopy) return copy(pod, rest);
  FERMATA_TRY_RESULT(pod.find_pages_here());
  return pod.memory();
}

/// Of the memory of the pod, what was not copied ahead.
std::vector<MemoryRegion> Snapshot::left_to_copy(const engine::FrozenPod& pod,
                                                 const WriteTracking& tracking) {
  return ahead_.begun() ? ahead_.rest(pod.memory(), tracking) : pod.memory();
}

Result<std::vector<MemoryRegion>> Snapshot::twins(engine::FrozenPod& pod,
                                                  const image::PodObjects& objects) {
  const Clock::time_point began = Clock::now();
  FERMATA_ASSIGN(engine::TwinMemory twins, pod.twins(objects));
  // One that was over before it was asked for tells nothing.
  if (const double waited = seconds_since(began); waited > kHidden) {
    cost_.forked(need_.use, waited);
  }
  FERMATA_ASSIGN(const std::vector<MemoryRegion> copies,
                 arena_.copy(twins.rest, kThreads, false, ahead_.size()));
  for (const MemoryRegion& copied : copies) {
    const auto whole = std::find_if(twins.regions.begin(), twins.regions.end(),
                                    [&](const MemoryRegion& one) { return one.id == copied.id; });
    const bool object = copied.id.kind == MemoryId::Kind::kObject;
    if (object && whole->extents == copied.extents) {
      whole->source = copied.source;
    } else {
      whole->source = std::make_shared<PatchedSource>(std::move(whole->source), copied);
    }
  }
  unfound_ = std::move(twins.unfound);
  if (way_ == Way::kBounded) twins_ = std::move(twins.twins);
  return std::move(twins.regions);
}

Result<std::vector<MemoryRegion>> Snapshot::copy(const engine::FrozenPod& pod,
                                                 const std::vector<MemoryRegion>& rest) {
  const uint64_t bytes = bytes_here(rest);
  // Which may cost the pod as much again.
  const bool scattered = bytes <= need_.room_of_pod;
  const Clock::time_point began = Clock::now();
  FERMATA_ASSIGN(std::vector<MemoryRegion> copies,
                 arena_.copy(rest, kThreads, scattered, ahead_.size()));
  // Memory that was not warmed is slow by itself.
  if (bytes <= warmed_) cost_.copied(bytes, seconds_since(began));
  if (!ahead_.begun()) return copies;
  return ahead_.joined(pod.memory(), copies);
}

}  // namespace fermata::node_agent
