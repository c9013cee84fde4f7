#include "node-agent/patched_source.h"

#include <algorithm>

#include "common/extents.h"

namespace fermata::node_agent {

PatchedSource::PatchedSource(std::shared_ptr<const MemorySource> most, MemoryRegion patch)
    : most_(std::move(most)), patch_(std::move(patch)) {}

Status PatchedSource::read(uint64_t address, std::span<std::byte> out) const {
  // The first extent of the patch that is not before `address`.
  auto next = std::partition_point(
      patch_.extents.begin(), patch_.extents.end(),
      [&](const Extent& extent) { return extent.address + extent.length <= address; });
  while (!out.empty()) {
    const uint64_t end = address + out.size();
    const bool patched = next != patch_.extents.end() && next->address <= address;
    uint64_t until = end;
    if (next != patch_.extents.end()) {
      until = std::min(end, patched ? next->address + next->length : next->address);
    }
    const std::span<std::byte> part = out.first(until - address);
    FERMATA_TRY((patched ? patch_.source : most_)->read(address, part));
    out = out.subspan(part.size());
    address = until;
    if (patched) ++next;
  }
  return Status::ok();
}

void PatchedSource::prepare_reads_into(const SharedBuffer& buffer) const {
  most_->prepare_reads_into(buffer);
}

void PatchedSource::read_once(const std::vector<Extent>& extents) const {
  most_->read_once(without(extents, patch_.extents));
}

}  // namespace fermata::node_agent
