#include "node-agent/engine/page_search.h"

#include <algorithm>
#include <utility>

#include "common/extents.h"

namespace fermata::engine {

void PageSearch::find(Search& search) {
  if (search.begun.exchange(true)) return;
  Result<Extents> found = finder_.find(search.process, search.maps);
  if (found) {
    search.region.extents = *std::move(found);
  } else {
    search.status = found.error();
  }
}

Status PageSearch::add(const StoppedProcess& process, OwnMaps maps, MemoryRegion region) {
  if (unfound_ != nullptr && finder_.can_wait(process, maps.all)) {
    FERMATA_ASSIGN_STATUS(region.extents, EveryPage().find(process, maps.not_in_twin));
    unfound_->push_back({process.vpid, process.pid, std::move(maps.in_twin)});
    Search& search = searches_.emplace_back();
    search.region = std::move(region);
    search.begun = true;
    return Status::ok();
  }
  const bool beside = unfound_ == nullptr && finder_.needs_no_calls(process);
  Search& search = searches_.emplace_back();
  search.process = process;
  search.maps = std::move(maps.all);
  search.region = std::move(region);
  if (beside) {
    beside_.add([this, &search] { find(search); });
    return Status::ok();
  }
  beside_.wait();
  find(search);
  return search.status;
}

Status PageSearch::finish(std::vector<MemoryRegion>& memory) {
  for (Search& search : searches_) find(search);
  beside_.wait();
  std::vector<MemoryRegion> found;
  for (Search& search : searches_) {
    FERMATA_TRY(search.status);
    found.push_back(std::move(search.region));
  }
  searches_.clear();
  std::sort(found.begin(), found.end(),
            [](const MemoryRegion& a, const MemoryRegion& b) { return a.id < b.id; });
  memory.insert(memory.begin(), std::make_move_iterator(found.begin()),
                std::make_move_iterator(found.end()));
  return Status::ok();
}

Status find_and_add(const std::vector<UnfoundPages>& unfound, std::vector<MemoryRegion>& regions) {
  for (const UnfoundPages& of : unfound) {
    FERMATA_ASSIGN_STATUS(const Extents found, EveryPage().find({of.pid, of.vpid, {}}, of.maps));
    const MemoryId id{MemoryId::Kind::kProcess, static_cast<uint64_t>(of.vpid)};
    for (MemoryRegion& region : regions) {
      if (region.id == id) region.extents = united(region.extents, found);
    }
  }
  return Status::ok();
}

}  // namespace fermata::engine
