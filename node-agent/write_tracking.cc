#include "node-agent/write_tracking.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

#include "common/log.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/pages.h"
#include "node-agent/engine/proc_status.h"
#include "node-agent/memory_room.h"
#include "node-agent/record_file.h"
#include "node-agent/tracked_maps.h"

namespace fermata::node_agent {
namespace {

using engine::OwnMap;
using engine::TrackKind;

// Cuts that may yet be named as a parent: the last committed one, and attempts since of which it is
// not known.
constexpr size_t kCuts = 3;
// To protect so much takes a millisecond: not worth a stop of its own.
constexpr uint64_t kMuch = 64 << 20;

std::vector<pid_t> processes_of(const std::filesystem::path& group) {
  return engine::group_processes(group).value_or(std::vector<pid_t>{});
}

Extents with_where(Extents extents, Where where) {
  for (Extent& extent : extents) extent.where = where;
  return extents;
}

}  // namespace

void WriteTracking::begin(TrackKind way, bool spare_huge_pages, Crid parent) {
  if (way != way_ || spare_huge_pages != spare_huge_pages_) {
    trackers_.clear();
    cuts_.clear();
    way_ = way;
    spare_huge_pages_ = spare_huge_pages;
  }
  forget_dead();
  numbers_.clear();
  covered_.clear();
  compared_.clear();
  not_taken_.clear();
  last_written_.clear();
  zeros_allowed_.clear();
  hashes_.clear();
  // Who names a parent will not name an older one again.
  while (!cuts_.empty() && cuts_.front().crid < parent) cuts_.pop_front();
  base_ = nullptr;
  for (Cut& cut : cuts_) {
    if (parent.value != 0 && cut.crid == parent) base_ = &cut;
    // Attempts since that failed; what they held goes, as there is much of it.
    if (base_ != nullptr && cut.crid > parent) cut.hashes.clear();
  }
}

void WriteTracking::forget_dead() {
  std::erase_if(trackers_, [](const auto& one) {
    return process_start_time(one.first) != one.second.start_time;
  });
}

void WriteTracking::forget(pid_t pid) {
  const std::lock_guard lock(mutex_);
  trackers_.erase(pid);
}

const WriteTracking::Tracked* WriteTracking::known(pid_t pid) const {
  const std::lock_guard lock(mutex_);
  const auto found = trackers_.find(pid);
  if (found == trackers_.end()) return nullptr;
  return found->second.start_time == process_start_time(pid) ? &found->second : nullptr;
}

WriteTracking::Tracked* WriteTracking::tracked(const engine::StoppedProcess& process) {
  if (known(process.pid) != nullptr) {
    const std::lock_guard lock(mutex_);
    return &trackers_.at(process.pid);
  }
  const auto make = [&]() -> Result<std::unique_ptr<engine::WriteTracker>> {
    FERMATA_ASSIGN(engine::Remote * remote, process.remote());
    return engine::WriteTracker::start(way_, spare_huge_pages_, *remote);
  };
  Result<std::unique_ptr<engine::WriteTracker>> tracker = make();
  if (!tracker) {
    log_info(fmt::format("writes of process {} are not tracked, so it is saved whole: {}",
                         process.vpid, tracker.error().message()));
    return nullptr;
  }
  const std::lock_guard lock(mutex_);
  Tracked& made = trackers_[process.pid];
  made = {++last_number_, process_start_time(process.pid), *std::move(tracker)};
  return &made;
}

bool WriteTracking::wants_start(const std::filesystem::path& group) const {
  if (way_ != TrackKind::kUffd && way_ != TrackKind::kSoftDirty) return false;
  const std::vector<pid_t> pids = processes_of(group);
  return std::any_of(pids.begin(), pids.end(), [&](pid_t pid) {
    return known(pid) == nullptr && private_memory(pid) >= kMuch;
  });
}

void WriteTracking::start(engine::FrozenPod& pod) {
  for (const engine::FrozenProcess& process : pod.processes()) {
    if (process.threads.empty()) continue;
    const Tracked* of = tracked({process.pid, process.vpid, [&] {
                                   return pod.remote(process.vpid, process.threads.front().vtid);
                                 }});
    // Soft-dirty bits are of a process as a whole: those of before the cut would go.
    if (of != nullptr && way_ == TrackKind::kUffd) cover(process.pid, *of);
  }
}

void WriteTracking::cover(pid_t pid, const Tracked& of) {
  std::vector<OwnMap>& covered = to_protect_[pid];
  covered.clear();
  for (const OwnMap& map : own_maps_of(pid)) {
    if (!is_untracked(of, map).value_or(false)) continue;
    covered.push_back(map);
    // What it held until now is not known of any cut.
    for (Cut& cut : cuts_) {
      for (auto& [vpid, held] : cut.processes) {
        if (held.tracker == of.number) held.since = united(held.since, range_of(map));
      }
    }
  }
  of.tracker->cover(covered);
}

/// Whether the tracker does not look at the map; it looks at all of one or at nothing.
Result<bool> WriteTracking::is_untracked(const Tracked& of, const OwnMap& map) {
  if (map.huge_pages) return true;
  FERMATA_ASSIGN(const engine::WriteTracker::Written first,
                 of.tracker->written({map.start, map.start + kPageSize, true, true}));
  return first.all;
}

void WriteTracking::protect() {
  for (const auto& [pid, maps] : to_protect_) {
    if (const Tracked* of = known(pid); of != nullptr) of->tracker->protect(maps);
  }
  to_protect_.clear();
}

uint64_t WriteTracking::estimate(const std::filesystem::path& group) const {
  uint64_t sum = 0;
  for (const pid_t pid : processes_of(group)) {
    const Tracked* of = known(pid);
    const ProcessCut* then = nullptr;
    if (of != nullptr && base_ != nullptr) {
      for (const auto& [vpid, held] : base_->processes) {
        if (held.tracker == of->number) then = &held;
      }
    }
    const uint64_t all = private_memory(pid);
    const Result<engine::PageScanner> scanner = engine::PageScanner::open(pid);
    if (then == nullptr || !scanner) {
      sum += all;
      continue;
    }
    uint64_t changed = 0;
    for (const OwnMap& map : own_maps_of(pid)) {
      const auto written = of->tracker->written(map);
      if (!written) continue;  // gone meanwhile
      const Extents since = written->all
                                ? range_of(map)
                                : united(part_of(then->since, map.start, map.end), written->pages);
      Extents there;
      (void)add_those_there(map, since, *scanner, there);
      changed += total_length(there);
    }
    sum += std::min(changed, all);
  }
  return sum;
}

std::vector<MemoryRegion> WriteTracking::take(const std::filesystem::path& group, bool first) {
  std::vector<MemoryRegion> regions;
  if (first) not_taken_.clear();
  if (way_ != TrackKind::kUffd) return regions;
  for (const pid_t pid : processes_of(group)) {
    const Tracked* of = known(pid);
    if (of == nullptr) continue;
    const auto status = engine::read_status(pid, pid);
    const auto scanner = engine::PageScanner::open(pid);
    auto source = engine::ProcessMemorySource::open(pid);
    if (!status || !scanner || !source) continue;  // has ended
    const auto vpid = static_cast<uint64_t>(status->vpid);
    regions.push_back({{MemoryId::Kind::kProcess, vpid},
                       take_of(pid, *of, first, *scanner, not_taken_[vpid]),
                       *std::move(source)});
  }
  return regions;
}

Extents WriteTracking::take_of(pid_t pid, const Tracked& of, bool first,
                               const engine::PageScanner& scanner, Extents& not_taken) {
  Extents there;
  for (const OwnMap& map : own_maps_of(pid)) {
    const auto written = of.tracker->take(map);
    const bool known_pages = written && !written->all;
    // What it told it does not tell again: it counts for every cut.
    const Extents pages = known_pages ? written->pages : range_of(map);
    const ProcessCut* then = nullptr;
    for (Cut& cut : cuts_) {
      for (auto& [vpid, held] : cut.processes) {
        if (held.tracker != of.number) continue;
        held.since = united(held.since, pages);
        if (&cut == base_) then = &held;
      }
    }
    if (!known_pages) {
      // A part of the map may be protected by now: changed meanwhile, it may be two.
      not_taken = united(not_taken, range_of(map));
      continue;
    }
    Extents wanted = pages;
    if (first) {
      wanted = range_of(map);
      if (then != nullptr) {
        wanted = united(part_of(then->since, map.start, map.end), without(wanted, then->covered));
      }
    }
    Extents here;
    if (!add_those_there(map, wanted, scanner, here)) {
      not_taken = united(not_taken, range_of(map));
      continue;
    }
    there.insert(there.end(), here.begin(), here.end());
  }
  return there;
}

const Extents* WriteTracking::written_since_take(uint64_t vpid) const {
  const auto found = last_written_.find(vpid);
  return found == last_written_.end() ? nullptr : &found->second;
}

bool WriteTracking::is_ours(pid_t pid, uint64_t start, uint64_t end) const {
  const Tracked* of = known(pid);
  return of != nullptr && of->tracker->is_ours(start, end);
}

void WriteTracking::allow_zeros(int vpid, std::span<const OwnMap> maps) {
  std::unique_lock lock(mutex_);
  Extents& zeros = zeros_allowed_[static_cast<uint64_t>(vpid)];
  lock.unlock();
  for (const OwnMap& map : maps) {
    if (map.anonymous) append(zeros, map.start, map.end - map.start);
  }
}

bool WriteTracking::needs_no_calls(const engine::StoppedProcess& process) const {
  const bool by_tracker = way_ == TrackKind::kUffd || way_ == TrackKind::kSoftDirty;
  return !by_tracker || known(process.pid) != nullptr;
}

bool WriteTracking::can_wait(const engine::StoppedProcess& process, std::span<const OwnMap> maps) {
  if (way_ == TrackKind::kUffd || way_ == TrackKind::kSoftDirty) return false;
  allow_zeros(process.vpid, maps);
  return true;
}

Result<Extents> WriteTracking::find(const engine::StoppedProcess& process,
                                    std::span<const OwnMap> maps) {
  allow_zeros(process.vpid, maps);
  if (way_ == TrackKind::kUffd || way_ == TrackKind::kSoftDirty) {
    if (Tracked* of = tracked(process)) {
      Result<Extents> pages = find_tracked(process, maps, *of);
      if (pages) return pages;
      // What it would say next is not to be relied upon.
      log_warning(
          fmt::format("process {} is saved whole: {}", process.vpid, pages.error().message()));
      forget(process.pid);
      const std::lock_guard lock(mutex_);
      numbers_.erase(static_cast<uint64_t>(process.vpid));
      compared_.erase(static_cast<uint64_t>(process.vpid));
    }
  }
  return engine::EveryPage().find(process, maps);
}

/// Adds the pages of a map that have to be saved to `here`, those that are as they were at the cut
/// `then` (null: there is none) to `kept`.
Status WriteTracking::sort_out(const OwnMap& map, const ProcessCut* then, bool notices_loss,
                               const engine::PageScanner& scanner, Extents& here, Extents& kept) {
  Extents changed = range_of(map);
  if (then != nullptr) {
    // What was kept out of a cut (MADV_DONTDUMP) is not in it, written or not.
    changed = united(part_of(then->since, map.start, map.end), without(changed, then->covered));
  }
  Extents same;
  if (then != nullptr) same = without(part_of(then->pages, map.start, map.end), changed);
  if (map.anonymous && notices_loss) {
    FERMATA_TRY(add_those_there(map, changed, scanner, here));
  } else {
    Extents there;
    FERMATA_TRY(scanner.scan(map.start, map.end, backing_of(map), there));
    const Extents now = common_part(there, changed);
    here.insert(here.end(), now.begin(), now.end());
    same = common_part(same, there);
  }
  kept.insert(kept.end(), same.begin(), same.end());
  return Status::ok();
}

Result<Extents> WriteTracking::find_tracked(const engine::StoppedProcess& process,
                                            std::span<const OwnMap> maps, Tracked& of) {
  const auto vpid = static_cast<uint64_t>(process.vpid);
  Extents written;
  Extents asked;
  std::vector<OwnMap> tracked_maps;
  std::vector<const OwnMap*> in_doubt;  // whether they are tracked from here on
  for (const OwnMap& map : maps) {
    append(asked, map.start, map.end - map.start);
    engine::WriteTracker::Written here{.all = true, .pages = {}};
    if (!map.huge_pages) {
      tracked_maps.push_back(map);
      FERMATA_ASSIGN(here, of.tracker->written(map));
    }
    // What has huge pages by now is given up.
    const bool spared = spare_huge_pages_ && way_ == TrackKind::kUffd;
    if (here.all || (spared && map.end - map.start >= kHugePage)) in_doubt.push_back(&map);
    const Extents pages = here.all ? range_of(map) : here.pages;
    written.insert(written.end(), pages.begin(), pages.end());
  }
  // The cut that tells which pages there were: the parent, else any that knows the process.
  const ProcessCut* then = nullptr;
  bool from_base = false;
  for (Cut& cut : cuts_) {
    const auto held = cut.processes.find(vpid);
    if (held == cut.processes.end() || held->second.tracker != of.number) continue;
    held->second.since = united(held->second.since, written);
    held->second.covered = common_part(held->second.covered, asked);
    if (from_base) continue;
    then = &held->second;
    from_base = &cut == base_;
  }

  FERMATA_ASSIGN(const engine::PageScanner scanner, engine::PageScanner::open(process.pid));
  Extents here;
  Extents kept;
  for (const OwnMap& map : maps) {
    FERMATA_TRY_RESULT(sort_out(map, then, of.tracker->notices_loss(), scanner, here, kept));
  }
  FERMATA_TRY_RESULT(of.tracker->rearm(tracked_maps));
  Extents compared;
  for (const OwnMap* map : in_doubt) {
    FERMATA_ASSIGN(const bool still, is_untracked(of, *map));
    if (still) append(compared, map->start, map->end - map->start);
  }
  {
    const std::lock_guard lock(mutex_);
    compared_[vpid] = std::move(compared);
    numbers_[vpid] = of.number;
    last_written_[vpid] = united(written, not_taken_[vpid]);
    covered_[vpid] = std::move(asked);
  }
  if (!from_base) return united(here, kept);
  return merged(united(here, {}), with_where(united(kept, {}), Where::kParent));
}

Status WriteTracking::trim(std::vector<MemoryRegion>& memory, const Trim& how) {
  // With nothing to compare with, now or later, reading it all finds zeros alone.
  const bool in_vain = how.last && base_ == nullptr && !how.cheap;
  if (in_vain) return Status::ok();
  for (MemoryRegion& region : memory) {
    const bool object = region.id.kind == MemoryId::Kind::kObject;
    const bool by_content = object || way_ == TrackKind::kHash;
    if (way_ == TrackKind::kNone && !object && !how.cheap) continue;
    const Extents compared = by_content ? united(region.extents, {}) : compared_[region.id.id];
    MemoryRegion looked_at = region;
    if (!by_content && !how.cheap) {
      looked_at.extents = common_part(only(region.extents, Where::kHere), compared);
    }
    if (looked_at.extents.empty()) continue;
    FERMATA_ASSIGN_STATUS(const PageHashes now, hash_pages(looked_at, how.threads, how.waited_for));
    Extents gone = zero_pages(now);
    if (!object) gone = common_part(gone, zeros_allowed_[region.id.id]);
    Extents same;
    if (!compared.empty() && base_ != nullptr) {
      const auto then = base_->hashes.find(region.id);
      if (then != base_->hashes.end()) same = without(unchanged_pages(now, then->second), gone);
    }
    const Extents here = without(without(only(region.extents, Where::kHere), gone), same);
    const Extents parent = united(only(region.extents, Where::kParent), same);
    region.extents = merged(here, with_where(parent, Where::kParent));
    if (compared.empty() || way_ == TrackKind::kNone) continue;
    hashes_[region.id] = combined({}, now, common_part(united(here, parent), compared));
  }
  return Status::ok();
}

void WriteTracking::remember(Crid crid, const std::vector<MemoryRegion>& memory) {
  if (way_ == TrackKind::kNone) return;
  Cut cut;
  cut.crid = crid;
  for (const MemoryRegion& region : memory) {
    const auto number = numbers_.find(region.id.id);
    if (region.id.kind != MemoryId::Kind::kProcess || number == numbers_.end()) continue;
    cut.processes[region.id.id] = {
        number->second, united(region.extents, {}), covered_[region.id.id], {}};
  }
  cut.hashes = std::move(hashes_);
  hashes_.clear();
  base_ = nullptr;
  cuts_.push_back(std::move(cut));
  while (cuts_.size() > kCuts) cuts_.pop_front();
}

}  // namespace fermata::node_agent
