#include "node-agent/snapshot.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>

#include "common/log.h"

namespace fermata::node_agent {
namespace {

constexpr unsigned kThreads = 2;  // more gain little: memory is shared with the job

// What each way costs while the pod stands, to choose by. Seconds; measured on 2 cores of an AMD
// EPYC VM, Linux 6.18, 2026-11-21 (docs of engine/twin and copy_arena): a copy runs at 2.5 GB/s, a
// fork takes 33 ms a GiB of 4K pages and a process some 1.2 ms with all that belongs to it.
constexpr double kCopyBytesPerSecond = 2.5e9;
// First touch of memory that was not warmed.
constexpr double kColdBytesPerSecond = 0.3e9;
constexpr double kForkSecondsPerByte = 0.033 / (1 << 30);
constexpr double kForkSecondsPerProcess = 0.0012;

double copy_seconds(uint64_t bytes) { return static_cast<double>(bytes) / kCopyBytesPerSecond; }

double twin_seconds(const MemoryUse& use) {
  return kForkSecondsPerProcess * static_cast<double>(use.processes) +
         kForkSecondsPerByte * static_cast<double>(use.own) + copy_seconds(use.shared);
}

/// Reads from one source what it has, and the rest from another.
class PatchedSource final : public MemorySource {
 public:
  PatchedSource(std::shared_ptr<const MemorySource> most, const MemoryRegion& patch)
      : most_(std::move(most)), patch_(patch) {}

  /// What is read may begin in one and end in the other.
  Status read(uint64_t address, std::span<std::byte> out) const override {
    while (!out.empty()) {
      const uint64_t end = address + out.size();
      // The first extent of the patch that is not before `address`.
      const auto next = std::find_if(
          patch_.extents.begin(), patch_.extents.end(),
          [&](const Extent& extent) { return extent.address + extent.length > address; });
      const bool patched = next != patch_.extents.end() && next->address <= address;
      uint64_t until = end;
      if (next != patch_.extents.end()) {
        until = std::min(end, patched ? next->address + next->length : next->address);
      }
      const std::span<std::byte> part = out.first(until - address);
      FERMATA_TRY((patched ? patch_.source : most_)->read(address, part));
      out = out.subspan(part.size());
      address = until;
    }
    return Status::ok();
  }
  void prepare_reads_into(const SharedBuffer& buffer) const override {
    most_->prepare_reads_into(buffer);
  }

 private:
  std::shared_ptr<const MemorySource> most_;
  MemoryRegion patch_;
};

uint64_t bytes_here(const std::vector<MemoryRegion>& regions) {
  uint64_t sum = 0;
  for (const MemoryRegion& region : regions) sum += region.bytes_here();
  return sum;
}

}  // namespace

std::string_view Snapshot::name_of(Way way) {
  switch (way) {
    case Way::kTwin:
      return "twin";
    case Way::kCopy:
      return "copy";
    case Way::kStopped:
      return "stopped";
  }
  return "?";
}

bool Snapshot::room_for_twins() const {
  // Both may count for the same limit.
  return need_.use.own + need_.use.shared <= need_.room_of_pod && need_.use.shared <= need_.room;
}

/// False: there is room for no way but the slowest.
bool Snapshot::choose(const SnapshotNeed& need) {
  const char* wanted = ::secure_getenv("FERMATA_SNAPSHOT");
  for (const Way way : {Way::kTwin, Way::kCopy, Way::kStopped}) {
    forced_ = wanted != nullptr && name_of(way) == wanted;
    way_ = way;
    if (forced_) return true;
  }
  const uint64_t copied = need.changed + need.use.shared;
  const bool copy_is_quicker = copy_seconds(copied) <= twin_seconds(need.use);
  if (room_for_copy(copied) && (copy_is_quicker || !room_for_twins())) {
    way_ = Way::kCopy;
    return true;
  }
  way_ = room_for_twins() ? Way::kTwin : Way::kStopped;
  return way_ == Way::kTwin;
}

void Snapshot::prepare(const SnapshotNeed& need) {
  need_ = need;
  warmed_ = 0;
  if (!choose(need)) {
    log_info(
        fmt::format("the job will stand still while its image is written: it has {} bytes, "
                    "{} to be saved, and there is room for a copy of {}, or for {} that it "
                    "may take itself",
                    need.use.own + need.use.shared, need.changed + need.use.shared, need.room,
                    need.room_of_pod));
  }
  if (way_ == Way::kCopy) warmed_ = need.changed + need.use.shared;
  if (way_ == Way::kTwin) warmed_ = need.use.shared;
  const Status warm = arena_.warm(warmed_);
  if (!warm) {
    log_info(
        fmt::format("the job will stand still while its image is written: {}", warm.message()));
    way_ = Way::kStopped;
  }
}

/// Now that it is known what there is: the pod may have grown, or written more than it had.
void Snapshot::reconsider(const std::vector<MemoryRegion>& memory) {
  if (way_ == Way::kStopped || forced_) return;
  const uint64_t here = bytes_here(memory);
  uint64_t shared = 0;
  for (const MemoryRegion& region : memory) {
    if (region.id.kind == MemoryId::Kind::kObject) shared += region.bytes_here();
  }
  if (way_ == Way::kCopy) {
    const double cold =
        here > warmed_ ? static_cast<double>(here - warmed_) / kColdBytesPerSecond : 0;
    const bool twin_is_quicker = cold + copy_seconds(here) > 2 * twin_seconds(need_.use);
    if (room_for_copy(here) && !(twin_is_quicker && room_for_twins())) return;
    way_ = room_for_twins() ? Way::kTwin : Way::kStopped;
  }
  if (way_ == Way::kTwin && !room_for_copy(shared)) way_ = Way::kStopped;
}

Result<std::vector<MemoryRegion>> Snapshot::take(engine::FrozenPod& pod,
                                                 const image::PodObjects& objects) {
  reconsider(pod.memory());
  if (way_ == Way::kTwin) {
    Result<std::vector<MemoryRegion>> regions = twins(pod, objects);
    if (regions) return regions;
    way_ = room_for_copy(bytes_here(pod.memory())) ? Way::kCopy : Way::kStopped;
    log_info(fmt::format("no copy-on-write twin, so {}: {}",
                         way_ == Way::kCopy ? "memory is copied" : "the job stands still",
                         regions.error().message()));
  }
  if (way_ == Way::kCopy) return copy(pod);
  return pod.memory();
}

Result<std::vector<MemoryRegion>> Snapshot::twins(engine::FrozenPod& pod,
                                                  const image::PodObjects& objects) {
  FERMATA_ASSIGN(engine::TwinMemory twins, pod.twins(objects));
  FERMATA_ASSIGN(const std::vector<MemoryRegion> copies, arena_.copy(twins.rest, kThreads));
  for (const MemoryRegion& copied : copies) {
    const auto whole = std::find_if(twins.regions.begin(), twins.regions.end(),
                                    [&](const MemoryRegion& one) { return one.id == copied.id; });
    if (whole->extents == copied.extents) {
      whole->source = copied.source;
    } else {
      whole->source = std::make_shared<PatchedSource>(std::move(whole->source), copied);
    }
  }
  return std::move(twins.regions);
}

Result<std::vector<MemoryRegion>> Snapshot::copy(const engine::FrozenPod& pod) {
  // Which may cost the pod as much again.
  const bool scattered = bytes_here(pod.memory()) <= need_.room_of_pod;
  return arena_.copy(pod.memory(), kThreads, scattered);
}

}  // namespace fermata::node_agent
