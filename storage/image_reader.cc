#include "storage/image_reader.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <memory>

#include "storage/file_source.h"
#include "storage/format.h"
#include "storage/records.h"

namespace fermata::storage {
namespace {

class ImageFile {
 public:
  static Result<ImageFile> open(const std::filesystem::path& path,
                                std::string_view expected_digest) {
    ImageFile file;
    auto opened = std::make_shared<OpenImage>();
    opened->path = path.native();
    // O_NONBLOCK: a FIFO put in its place must not hang us.
    opened->fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!opened->fd.valid()) return errno_failure(errno, "cannot open image " + path.native());
    // The very file that was opened, whatever its name stands for by now.
    const std::string self = fmt::format("/proc/self/fd/{}", opened->fd.get());
    opened->direct = UniqueFd(::open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT | O_NONBLOCK));
    file.file_ = std::move(opened);
    FERMATA_ASSIGN(file.index_, read_index(file.file_->fd.get(), file.file_->path, &file.digest_));
    if (!expected_digest.empty() && expected_digest != file.digest_) {
      return failure(Code::kDamaged,
                     fmt::format("image {} has digest {}, the manifest says {}: it is not the file "
                                 "that was committed",
                                 path.native(), file.digest_, expected_digest));
    }
    return file;
  }

  const Index& index() const { return index_; }
  const std::string& digest() const { return digest_; }
  const OpenImage& file() const { return *file_; }

  Result<std::vector<std::byte>> read(const IndexEntry& entry) const {
    std::vector<std::byte> bytes(entry.length);
    FERMATA_TRY_RESULT(read_exactly(file_->fd.get(), entry.offset, bytes, file_->path));
    if (checksum64(bytes) != entry.checksum) {
      return failure(Code::kDamaged, fmt::format("image {}: {} does not match its checksum",
                                                 file_->path, entry.name));
    }
    return bytes;
  }

  Result<std::vector<std::byte>> read(const std::string& name) const {
    const IndexEntry* entry = index_.find(name);
    if (entry == nullptr || entry->guard != Guard::kWhole) {
      return failure(Code::kDamaged, fmt::format("image {} has no {}", file_->path, name));
    }
    return read(*entry);
  }

  Result<ImageHeader> header() const {
    ImageHeader header;
    header.format_major = index_.major;
    header.format_minor = index_.minor;
    FERMATA_TRY_RESULT(within(decode_header(reader(), header)));
    return header;
  }

  Result<PodImage> pod() const {
    PodImage pod;
    pod.header.format_major = index_.major;
    pod.header.format_minor = index_.minor;
    FERMATA_TRY_RESULT(within(decode_records(reader(), pod)));
    if (pod.header.parent >= pod.header.crid) {
      return failure(Code::kDamaged,
                     fmt::format("image {} of set {} says that it builds on set {}, which is not "
                                 "older",
                                 file_->path, pod.header.crid.value, pod.header.parent.value));
    }
    FERMATA_ASSIGN(const std::vector<std::byte> xml, read(kTopologyDataset));
    pod.topology_xml.assign(reinterpret_cast<const char*>(xml.data()), xml.size());
    FERMATA_ASSIGN(const auto sources, memory(pod.header.parent.value != 0));
    for (const auto& [id, region] : sources) pod.memory.push_back(region);
    return pod;
  }

  Result<std::map<MemoryId, MemoryRegion>> memory(bool incremental) const {
    std::map<MemoryId, MemoryRegion> regions;
    constexpr std::string_view kSuffix = "/extents";
    for (const auto& [name, entry] : index_.entries) {
      if (!name.ends_with(kSuffix)) continue;
      const std::string group = name.substr(0, name.size() - kSuffix.size());
      const auto id = parse_memory_group(group);
      if (!id) continue;  // of a later minor
      FERMATA_ASSIGN(regions[*id], region(*id, group, incremental));
    }
    return regions;
  }

 private:
  ImageFile() = default;

  Status within(const Status& status) const { return status.within("image " + file_->path); }

  DatasetReader reader() const {
    return [this](const std::string& name) { return read(name); };
  }

  Result<MemoryRegion> region(MemoryId id, const std::string& group, bool incremental) const {
    const std::string what = fmt::format("image {}: {}", file_->path, group);
    MemoryRegion region;
    region.id = id;
    FERMATA_ASSIGN(const std::vector<std::byte> raw, read(group + "/extents"));
    FERMATA_ASSIGN(region.extents, decode_extents(raw, what + "/extents"));
    for (const Extent& extent : region.extents) {
      if (extent.where == Where::kParent && !incremental) {
        return failure(Code::kDamaged,
                       fmt::format("{}: extent at {:#x} is in a parent that a full image has not",
                                   what, extent.address));
      }
    }
    PageLayout layout(region.extents);
    FERMATA_ASSIGN(const std::vector<std::byte> sums, read(group + "/checksums"));
    const IndexEntry* pages = index_.find(group + "/pages");
    const IndexEntry* area = index_.find(kStoredArea);
    if (pages == nullptr && area != nullptr && area->guard == Guard::kStored) {
      return stored_region(std::move(region), group, *area, std::move(layout), sums);
    }
    if (pages == nullptr || pages->guard != Guard::kBlocks || pages->length != layout.size()) {
      return failure(Code::kDamaged,
                     fmt::format("{}: the extents speak of {} bytes, pages holds {}", what,
                                 layout.size(), pages == nullptr ? 0 : pages->length));
    }
    FERMATA_ASSIGN(std::vector<uint64_t> checksums, checksums_of(layout, sums, what));
    region.source = std::make_shared<FileSource>(file_, pages->name, pages->offset,
                                                 std::move(layout), std::move(checksums));
    return region;
  }

  static Result<std::vector<uint64_t>> checksums_of(const PageLayout& layout,
                                                    std::span<const std::byte> bytes,
                                                    const std::string& what) {
    const uint64_t blocks = layout.size() / kBlockSize + (layout.size() % kBlockSize != 0 ? 1 : 0);
    if (bytes.size() / sizeof(uint64_t) != blocks || bytes.size() % sizeof(uint64_t) != 0) {
      return failure(Code::kDamaged, fmt::format("{}: {} bytes of checksums for {} blocks", what,
                                                 bytes.size(), blocks));
    }
    std::vector<uint64_t> checksums(blocks);
    if (blocks > 0) std::memcpy(checksums.data(), bytes.data(), bytes.size());
    return checksums;
  }

  /// Of compressed pages.
  Result<MemoryRegion> stored_region(MemoryRegion region, const std::string& group,
                                     const IndexEntry& area, PageLayout layout,
                                     std::span<const std::byte> sums) const {
    const std::string what = fmt::format("image {}: {}", file_->path, group);
    FERMATA_ASSIGN(std::vector<uint64_t> checksums, checksums_of(layout, sums, what));
    FERMATA_ASSIGN(const std::vector<std::byte> raw, read(group + "/stored"));
    FERMATA_ASSIGN(std::vector<StoredBlock> stored, decode_stored(raw, area, what + "/stored"));
    if (stored.size() != checksums.size()) {
      return failure(Code::kDamaged, fmt::format("{}: {} compressed blocks, not {}", what,
                                                 stored.size(), checksums.size()));
    }
    region.source = std::make_shared<FileSource>(file_, group + "/pages", std::move(stored),
                                                 std::move(layout), std::move(checksums));
    return region;
  }

  std::shared_ptr<const OpenImage> file_;
  Index index_;
  std::string digest_;
};

}  // namespace

Result<PodImage> read_image(const std::filesystem::path& path, std::string_view expected_digest) {
  FERMATA_ASSIGN(const ImageFile file, ImageFile::open(path, expected_digest));
  return file.pod();
}

Result<ImageHeader> read_image_header(const std::filesystem::path& path) {
  FERMATA_ASSIGN(const ImageFile file, ImageFile::open(path, {}));
  return file.header();
}

Result<VerifiedImage> verify_image(const std::filesystem::path& path,
                                   std::string_view expected_digest,
                                   const VerifyProgress& progress) {
  FERMATA_ASSIGN(const ImageFile file, ImageFile::open(path, expected_digest));
  const std::string& name = file.file().path;
  for (const auto& [dataset, entry] : file.index().entries) {
    if (entry.guard == Guard::kWhole) {
      FERMATA_ASSIGN([[maybe_unused]] const auto bytes, file.read(entry));
    }
  }
  FERMATA_ASSIGN(const Digest structure,
                 structure_digest(file.file().fd.get(), file.index(), name));
  if (structure != file.index().structure) {
    return failure(Code::kDamaged,
                   fmt::format("image {}: the HDF5 structure does not match its checksum; Fermata "
                               "can read the image, other tools may not",
                               name));
  }
  FERMATA_ASSIGN(const PodImage pod, file.pod());

  VerifiedImage verified;
  verified.header = pod.header;
  verified.digest = file.digest();
  verified.bytes = file.index().file_size;
  for (const MemoryRegion& region : pod.memory) verified.memory_bytes += region.bytes_here();
  uint64_t done = 0;
  std::vector<std::byte> buffer(kBlockSize);
  for (const MemoryRegion& region : pod.memory) {
    const auto& source = static_cast<const FileSource&>(*region.source);
    for (uint64_t at = 0; at < source.size(); at += kBlockSize) {
      const auto block = std::span(buffer).first(std::min(kBlockSize, source.size() - at));
      FERMATA_TRY_RESULT(source.read_block(at / kBlockSize, block));
      done += block.size();
      if (progress) progress(done, verified.memory_bytes);
    }
  }
  return verified;
}

}  // namespace fermata::storage
