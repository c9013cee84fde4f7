#include "storage/summary.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>

namespace fermata::storage {
namespace {

BytesByWhere bytes_of(const MemoryRegion& region) {
  BytesByWhere bytes{};
  for (const Extent& extent : region.extents) {
    bytes[static_cast<size_t>(extent.where)] += extent.length;
  }
  return bytes;
}

void add(BytesByWhere& sum, const BytesByWhere& more) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
}

void add_placement(const image::Placement& placement, std::map<int, ProcessSummary*>& by_vpid) {
  for (const image::ThreadPlacement& thread : placement.threads()) {
    if (by_vpid.contains(thread.vpid())) by_vpid[thread.vpid()]->threads.push_back(&thread);
  }
  for (const image::ProcessPlacement& process : placement.processes()) {
    if (!by_vpid.contains(process.vpid())) continue;
    ProcessSummary& summary = *by_vpid[process.vpid()];
    for (const image::RangePlacement& range : process.ranges()) {
      if (range.policy_mode() > 0) ++summary.bound_ranges;
      for (const image::PageRun& run : range.runs()) {
        summary.bytes_on_node[run.node()] += run.bytes() > 0 ? run.bytes() : run.length();
      }
    }
  }
}

}  // namespace

const char* where_name(Where where) {
  switch (where) {
    case Where::kHere:
      return "here";
    case Where::kParent:
      return "parent";
    case Where::kZero:
      return "zero";
    case Where::kFile:
      return "file";
  }
  return "unknown";
}

std::string file_kind(const image::File& file) {
  const auto* kinds = image::File::descriptor()->FindOneofByName("kind");
  const auto* field = image::File::GetReflection()->GetOneofFieldDescriptor(file, kinds);
  return field == nullptr ? "unknown" : field->name();
}

ImageSummary summarize(const PodImage& image) {
  ImageSummary summary;
  std::map<uint32_t, std::string> kinds;
  for (const image::File& file : image.objects.files()) {
    kinds[file.id()] = file_kind(file);
    ++summary.files[kinds[file.id()]];
  }
  std::map<int, ProcessSummary*> by_vpid;
  summary.processes.reserve(static_cast<size_t>(image.objects.processes_size()));
  for (const image::Process& process : image.objects.processes()) {
    ProcessSummary& one = summary.processes.emplace_back();
    one.process = &process;
    by_vpid[process.vpid()] = &one;
    for (const image::Fd& fd : process.fds()) {
      const auto kind = kinds.find(fd.file_id());
      ++one.files[kind == kinds.end() ? "unknown" : kind->second];
    }
  }
  for (const MemoryRegion& region : image.memory) {
    const BytesByWhere bytes = bytes_of(region);
    add(summary.memory, bytes);
    if (region.id.kind == MemoryId::Kind::kObject) {
      add(summary.object_memory, bytes);
    } else if (const auto owner = by_vpid.find(static_cast<int>(region.id.id));
               owner != by_vpid.end()) {
      add(owner->second->memory, bytes);
    }
  }
  add_placement(image.placement, by_vpid);
  return summary;
}

}  // namespace fermata::storage
