#include "storage/chain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/extents.h"
#include "storage/image_reader.h"

namespace fermata::storage {
namespace {

Failure unusable_parent(Crid child, Crid parent, const Status& why) {
  const Code code = why.code() == Code::kNotFound ? Code::kDamaged : why.code();
  return failure(code, fmt::format("set {} builds on set {}, which cannot be used: {}", child.value,
                                   parent.value, why.message()));
}

std::filesystem::path folder_of_parent(const std::filesystem::path& folder, Crid parent) {
  std::error_code error;
  return std::filesystem::absolute(folder, error).lexically_normal().parent_path() /
         to_string(parent);
}

Result<Manifest> parent_manifest(const std::filesystem::path& folder, Crid child, Crid parent,
                                 JobStep job) {
  if (parent >= child) {
    return unusable_parent(child, parent, {Code::kDamaged, "it is not older"});
  }
  Result<Manifest> manifest = read_manifest(folder_of_parent(folder, parent));
  if (!manifest) return unusable_parent(child, parent, manifest.error());
  if (manifest->job != job || manifest->crid != parent) {
    return unusable_parent(child, parent,
                           {Code::kDamaged, "it is of job " + to_string(manifest->job)});
  }
  return manifest;
}

/// The image of the same pod in the parent set of `child`.
Result<ChainImage> parent_image(const std::filesystem::path& image, const ImageHeader& child) {
  const std::filesystem::path folder = std::filesystem::path(image).parent_path();
  FERMATA_ASSIGN(const Manifest manifest,
                 parent_manifest(folder, child.crid, child.parent, child.job));
  const auto found = std::find_if(manifest.images.begin(), manifest.images.end(),
                                  [&](const ManifestImage& one) { return one.pod == child.pod; });
  if (found == manifest.images.end()) {
    return unusable_parent(child.crid, child.parent,
                           {Code::kDamaged, fmt::format("it has no pod {}", child.pod)});
  }
  return ChainImage{child.parent, folder_of_parent(folder, child.parent) / found->file,
                    found->digest};
}

Status too_long(const std::filesystem::path& image) {
  return {Code::kDamaged, fmt::format("image {}: more than {} sets build on each other",
                                      image.native(), kLongestChain)};
}

Status check_is(const ImageHeader& header, const ImageHeader& child) {
  if (header.crid == child.parent && header.job == child.job && header.pod == child.pod) {
    return Status::ok();
  }
  return unusable_parent(
             child.crid, child.parent,
             {Code::kDamaged, fmt::format("its image is of set {} of job {}, pod {}",
                                          header.crid.value, to_string(header.job), header.pod)})
      .value();
}

/// Pages of one region from the images of a chain.
class ChainSource final : public MemorySource {
 public:
  struct Place {
    uint64_t address;
    uint64_t length;
    size_t source;
  };
  ChainSource(std::vector<Place> places, std::vector<std::shared_ptr<const MemorySource>> sources)
      : places_(std::move(places)), sources_(std::move(sources)) {}

  Status read(uint64_t address, std::span<std::byte> out) const override {
    auto place =
        std::upper_bound(places_.begin(), places_.end(), address,
                         [](uint64_t wanted, const Place& one) { return wanted < one.address; });
    if (place != places_.begin()) --place;
    while (!out.empty()) {
      if (place == places_.end() || address < place->address ||
          address - place->address >= place->length) {
        return {Code::kInternal, fmt::format("no image of the chain has bytes at {:#x}", address)};
      }
      const uint64_t length =
          std::min<uint64_t>(out.size(), place->length - (address - place->address));
      FERMATA_TRY(sources_[place->source]->read(address, out.first(length)));
      address += length;
      out = out.subspan(length);
      ++place;
    }
    return Status::ok();
  }

 private:
  std::vector<Place> places_;  // in ascending order
  std::vector<std::shared_ptr<const MemorySource>> sources_;
};

/// One region, while the images of its chain are read, newest first.
class Resolving {
 public:
  explicit Resolving(const MemoryRegion& newest) : id_(newest.id) {
    rest_.push_back({0, ~uint64_t{0} / kPageSize * kPageSize, Where::kParent});
    take(newest);
  }

  MemoryId id() const { return id_; }
  bool complete() const { return rest_.empty(); }

  /// The same region in the next image.
  void take(const MemoryRegion& region) {
    const Extents here = common_part(rest_, only(region.extents, Where::kHere));
    for (const Extent& extent : here) {
      places_.push_back({extent.address, extent.length, sources_.size()});
    }
    sources_.push_back(region.source);
    Extents others;
    for (const Where where : {Where::kZero, Where::kFile}) {
      Extents part = common_part(rest_, only(region.extents, where));
      for (Extent& extent : part) extent.where = where;
      others = merged(others, part);
    }
    others_.insert(others_.end(), others.begin(), others.end());
    const Extents covered = united(here, others);
    const Extents parent = common_part(rest_, only(region.extents, Where::kParent));
    // Of the newest, what it does not speak of is no part of the region; of the others it is
    // missing.
    missing_ = first_ ? Extents{} : united(missing_, without(without(rest_, covered), parent));
    first_ = false;
    rest_ = parent;
  }
  const Extents& missing() const { return missing_; }

  MemoryRegion result() {
    std::sort(places_.begin(), places_.end(),
              [](const auto& a, const auto& b) { return a.address < b.address; });
    std::sort(others_.begin(), others_.end(),
              [](const Extent& a, const Extent& b) { return a.address < b.address; });
    Extents here;
    for (const auto& place : places_) append(here, place.address, place.length);
    MemoryRegion region;
    region.id = id_;
    region.extents = merged(here, others_);
    region.source = std::make_shared<ChainSource>(std::move(places_), std::move(sources_));
    return region;
  }

 private:
  MemoryId id_;
  bool first_ = true;
  Extents rest_;     // still to be found
  Extents missing_;  // said to be in a parent that does not have it
  Extents others_;   // zero, file; not in order
  std::vector<ChainSource::Place> places_;
  std::vector<std::shared_ptr<const MemorySource>> sources_;
};

Status check_found(const Resolving& region, const ImageHeader& child) {
  if (region.missing().empty()) return Status::ok();
  return unusable_parent(
             child.crid, child.parent,
             {Code::kDamaged,
              fmt::format(
                  "it does not have the page {:#x} of {} {}", region.missing().front().address,
                  region.id().kind == MemoryId::Kind::kProcess ? "process" : "shared object",
                  region.id().id)})
      .value();
}

}  // namespace

Result<std::vector<ChainImage>> chain_of(const std::filesystem::path& image,
                                         std::string_view digest) {
  std::vector<ChainImage> chain;
  ChainImage next{{}, image, std::string(digest)};
  for (;;) {
    FERMATA_ASSIGN(const ImageHeader header, read_image_header(next.path));
    next.crid = header.crid;
    chain.push_back(next);
    if (header.parent.value == 0) return chain;
    if (chain.size() == kLongestChain) return Failure(too_long(image));
    FERMATA_ASSIGN(next, parent_image(next.path, header));
  }
}

Result<PodImage> read_chain(const std::filesystem::path& image, std::string_view digest) {
  FERMATA_ASSIGN(PodImage newest, read_image(image, digest));
  if (newest.header.parent.value == 0) return newest;
  std::vector<Resolving> regions;
  for (const MemoryRegion& region : newest.memory) regions.emplace_back(region);
  const auto complete = [&] {
    return std::all_of(regions.begin(), regions.end(),
                       [](const Resolving& region) { return region.complete(); });
  };
  ImageHeader child = newest.header;
  std::filesystem::path path = image;
  for (size_t length = 1; child.parent.value != 0; ++length) {
    if (length == kLongestChain) return Failure(too_long(image));
    FERMATA_ASSIGN(const ChainImage parent, parent_image(path, child));
    const Result<PodImage> older = read_image(parent.path, parent.digest);
    if (!older) return unusable_parent(child.crid, child.parent, older.error());
    FERMATA_TRY_RESULT(check_is(older->header, child));
    std::map<MemoryId, const MemoryRegion*> by_id;
    for (const MemoryRegion& region : older->memory) by_id[region.id] = &region;
    for (Resolving& region : regions) {
      if (region.complete()) continue;
      const auto found = by_id.find(region.id());
      region.take(found == by_id.end() ? MemoryRegion{region.id(), {}, nullptr} : *found->second);
      FERMATA_TRY_RESULT(check_found(region, child));
    }
    if (complete()) break;  // older ones have nothing that is needed
    child = older->header;
    path = parent.path;
  }
  for (size_t i = 0; i < regions.size(); ++i) newest.memory[i] = regions[i].result();
  return newest;
}

Result<std::vector<Manifest>> ancestors_of(const std::filesystem::path& folder,
                                           const Manifest& manifest) {
  std::vector<Manifest> ancestors;
  const Manifest* child = &manifest;
  while (child->parent.value != 0) {
    if (ancestors.size() + 1 == kLongestChain) return Failure(too_long(folder));
    FERMATA_ASSIGN(Manifest parent,
                   parent_manifest(folder, child->crid, child->parent, child->job));
    ancestors.push_back(std::move(parent));
    child = &ancestors.back();
  }
  return ancestors;
}

}  // namespace fermata::storage
