#include "node-agent/precopy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "node-agent/patched_source.h"

namespace fermata::node_agent {
namespace {

// What is lost at a time where something cannot be read.
constexpr uint64_t kPiece = 4U << 20;

}  // namespace

/// Reads what may lie in several places.
class Precopy::Source final : public MemorySource {
 public:
  Source(std::vector<Place> places, const std::byte* base)
      : places_(std::move(places)), base_(base) {}

  Status read(uint64_t address, std::span<std::byte> out) const override {
    auto at = std::partition_point(places_.begin(), places_.end(), [&](const Place& place) {
      return place.address + place.length <= address;
    });
    while (!out.empty()) {
      if (at == places_.end() || at->address > address) {
        return {Code::kInternal, fmt::format("no copy of the memory at {:#x}", address)};
      }
      const uint64_t skip = address - at->address;
      const uint64_t length = std::min<uint64_t>(at->length - skip, out.size());
      std::memcpy(out.data(), base_ + at->offset + skip, length);
      out = out.subspan(length);
      address += length;
      ++at;
    }
    return Status::ok();
  }

 private:
  std::vector<Place> places_;
  const std::byte* base_;
};

void Precopy::begin() {
  copied_.clear();
  size_ = 0;
}

/// Where `pages` are to be copied: to where they were before, else behind all others.
std::vector<Precopy::Place> Precopy::places_for(std::vector<Place>& places, const Extents& pages) {
  std::vector<Place> wanted;
  std::vector<Place> fresh;
  for (const Extent& extent : pages) {
    const uint64_t end = extent.address + extent.length;
    auto known = std::partition_point(places.begin(), places.end(), [&](const Place& place) {
      return place.address + place.length <= extent.address;
    });
    for (uint64_t at = extent.address; at < end;) {
      Place place;
      if (known != places.end() && known->address <= at) {
        const uint64_t skip = at - known->address;
        place = {at, std::min(known->length - skip, end - at), known->offset + skip};
        ++known;
      } else {
        const uint64_t until = known == places.end() ? end : std::min(end, known->address);
        place = {at, until - at, size_};
        size_ += place.length;
        fresh.push_back(place);
      }
      at += place.length;
      wanted.push_back(place);
    }
  }
  const auto middle = static_cast<std::ptrdiff_t>(places.size());
  places.insert(places.end(), fresh.begin(), fresh.end());
  std::inplace_merge(places.begin(), places.begin() + middle, places.end(),
                     [](const Place& a, const Place& b) { return a.address < b.address; });
  return wanted;
}

Status Precopy::add(const std::vector<MemoryRegion>& regions,
                    std::chrono::steady_clock::time_point until) {
  for (const MemoryRegion& region : regions) {
    Copied& copied = copied_[region.id];
    const std::vector<Place> wanted = places_for(copied.places, region.extents);
    FERMATA_ASSIGN_STATUS(std::byte* const base, arena_.room(size_));
    Extents read;
    Extents lost;
    for (const Place& place : wanted) {
      for (uint64_t done = 0; done < place.length; done += kPiece) {
        const uint64_t length = std::min(kPiece, place.length - done);
        const uint64_t address = place.address + done;
        const bool good =
            std::chrono::steady_clock::now() < until &&
            region.source->read(address, {base + place.offset + done, length}).code() == Code::kOk;
        append(good ? read : lost, address, length);
      }
    }
    copied.had = without(united(copied.had, read), lost);
  }
  return Status::ok();
}

std::vector<MemoryRegion> Precopy::rest(const std::vector<MemoryRegion>& memory,
                                        const WriteTracking& tracking) {
  std::vector<MemoryRegion> rest;
  for (const MemoryRegion& region : memory) {
    const Extents here = only(region.extents, Where::kHere);
    const auto copied = copied_.find(region.id);
    if (copied == copied_.end()) {
      rest.push_back({region.id, here, region.source});
      continue;
    }
    const Extents* written = tracking.written_since_take(region.id.id);
    Extents& had = copied->second.had;
    had = written == nullptr ? Extents() : without(had, *written);
    rest.push_back({region.id, without(here, had), region.source});
  }
  return rest;
}

std::vector<MemoryRegion> Precopy::joined(const std::vector<MemoryRegion>& memory,
                                          const std::vector<MemoryRegion>& rest) const {
  std::vector<MemoryRegion> all;
  for (size_t i = 0; i < memory.size(); ++i) {
    MemoryRegion region{memory[i].id, memory[i].extents, rest[i].source};
    const auto copied = copied_.find(region.id);
    if (copied != copied_.end()) {
      region.source = std::make_shared<PatchedSource>(
          std::make_shared<Source>(copied->second.places, arena_.base()), rest[i]);
    }
    all.push_back(std::move(region));
  }
  return all;
}

}  // namespace fermata::node_agent
