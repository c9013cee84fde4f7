// Memory that is read until somebody says stop: what ends a long copy, write or rebuild early. Any
// thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"

namespace fermata::node_agent {

class StoppableSource final : public MemorySource {
 public:
  StoppableSource(std::shared_ptr<const MemorySource> source, std::function<bool()> stop)
      : source_(std::move(source)), stop_(std::move(stop)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    if (stop_()) return {Code::kGone, "given up before it was done"};
    return source_->read(address, out);
  }
  void prepare_reads_into(const SharedBuffer& buffer) const override {
    source_->prepare_reads_into(buffer);
  }
  void read_once(const std::vector<Extent>& extents) const override { source_->read_once(extents); }
  uint64_t frees(uint64_t address, uint64_t length) const override {
    return source_->frees(address, length);
  }

 private:
  std::shared_ptr<const MemorySource> source_;
  std::function<bool()> stop_;
};

/// From now on every read fails once `stop` says so. Null: nothing changes.
inline void make_stoppable(std::vector<MemoryRegion>& memory, const std::function<bool()>& stop) {
  if (!stop) return;
  for (MemoryRegion& region : memory) {
    if (region.source) {
      region.source = std::make_shared<StoppableSource>(std::move(region.source), stop);
    }
  }
}

}  // namespace fermata::node_agent
