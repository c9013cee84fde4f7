#include "storage/image_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/file_util.h"
#include "common/unique_fd.h"
#include "storage/format.h"
#include "storage/page_writer.h"
#include "storage/records.h"
#include "storage/skeleton.h"

namespace fermata::storage {
namespace {

std::vector<SkeletonDataset> skeleton_of(const PodImage& image, bool compressed) {
  std::vector<SkeletonDataset> datasets;
  for (RecordSet& set : encode_records(image)) {
    const uint64_t length = set.bytes.size();
    datasets.push_back({set.dataset, View::kBytes, length, Guard::kWhole, std::move(set.bytes)});
  }
  const auto xml = std::as_bytes(std::span(image.topology_xml));
  datasets.push_back({kTopologyDataset, View::kText, xml.size(), Guard::kWhole,
                      std::vector<std::byte>(xml.begin(), xml.end())});
  for (const MemoryRegion& region : image.memory) {
    const std::string group = memory_group(region.id);
    const uint64_t bytes = region.bytes_here();
    const uint64_t blocks = (bytes + kBlockSize - 1) / kBlockSize;
    std::vector<std::byte> extents = encode_extents(region.extents);
    const uint64_t length = extents.size();
    datasets.push_back(
        {group + "/extents", View::kExtents, length, Guard::kWhole, std::move(extents)});
    datasets.push_back(
        {group + "/checksums", View::kChecksums, blocks * sizeof(uint64_t), Guard::kWhole, {}});
    if (compressed) {
      // Their places are known when they are written.
      datasets.push_back(
          {group + "/stored", View::kStored, blocks * kStoredBlockSize, Guard::kWhole, {}});
      datasets.push_back({group + "/pages", View::kBytes, bytes, Guard::kStored, {}});
    } else {
      datasets.push_back({group + "/pages", View::kBytes, bytes, Guard::kBlocks, {}});
    }
  }
  return datasets;
}

// What a reader would refuse must not be written.
Status check_writable(const PodImage& image, const std::vector<SkeletonDataset>& datasets) {
  for (const MemoryRegion& region : image.memory) {
    if (Status status = check_extents(region.extents, memory_group(region.id)); !status) {
      return {Code::kInternal, status.message()};
    }
    if (region.bytes_here() > 0 && region.source == nullptr) {
      return {Code::kInternal, fmt::format("{} has no source", memory_group(region.id))};
    }
  }
  for (const SkeletonDataset& dataset : datasets) {
    if (dataset.guard == Guard::kWhole && dataset.length > kMaxDatasetSize) {
      return {Code::kCannotHold, fmt::format("{} needs {} bytes, an image holds at most {} of them",
                                             dataset.name, dataset.length, kMaxDatasetSize)};
    }
  }
  return Status::ok();
}

}  // namespace

struct ImageWriter::State {
  std::filesystem::path path;
  UniqueFd fd;
  UniqueFd direct;  // not valid: the file system refuses O_DIRECT
  Index index;
  std::vector<MemoryRegion> regions;
  std::vector<std::vector<uint64_t>> checksums;  // of each region, filled by write_pages
  StoredArea area;                               // with compression
  uint64_t area_start = 0;
  ImageHeader header;
  std::vector<SkeletonDataset> datasets;         // with compression: made into a skeleton last
  std::vector<std::vector<StoredBlock>> stored;  // of each region
  bool pages_written = false;
  bool finished = false;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (fd.valid() && !finished) ::unlink(path.c_str());
  }
};

ImageWriter::ImageWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
ImageWriter::ImageWriter(ImageWriter&&) noexcept = default;
ImageWriter& ImageWriter::operator=(ImageWriter&&) noexcept = default;
ImageWriter::~ImageWriter() = default;

Result<ImageWriter> ImageWriter::create(const std::filesystem::path& part, const PodImage& image,
                                        Compression compression) {
  const bool compressed = compression != Compression::kNone;
  std::vector<SkeletonDataset> datasets = skeleton_of(image, compressed);
  FERMATA_TRY_RESULT(check_writable(image, datasets));
  auto state = std::make_unique<State>();
  state->path = part;
  state->index.index_size = index_size_for(datasets.size());
  if (state->index.index_size == 0) {
    return failure(Code::kCannotHold, fmt::format("{} processes and objects with memory are more "
                                                  "than an image holds",
                                                  image.memory.size()));
  }
  state->fd = UniqueFd(::open(part.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!state->fd.valid()) {
    return Failure(errno_status(Code::kStorage, errno, "cannot make " + part.native()));
  }
  if (compressed) {
    state->area.compression = compression;
    state->area_start = state->index.index_size + kSkeletonRoom;
    state->area.next = state->area_start;
    state->header = image.header;
    state->datasets = std::move(datasets);
    uint64_t most = state->area_start;
    for (const MemoryRegion& region : image.memory) {
      most += (region.bytes_here() + kBlockSize - 1) / kBlockSize * kBlockSize;
    }
    // As long as it can get: writes that make a file longer wait for each other. Cut off at the
    // end.
    FERMATA_TRY_RESULT(take_room(state->fd.get(), most, part.native()));
  } else {
    FERMATA_ASSIGN(const Skeleton skeleton,
                   make_skeleton(image.header, state->index.index_size, datasets));
    FERMATA_TRY_RESULT(take_room(state->fd.get(), skeleton.size, part.native()));
    FERMATA_TRY_RESULT(copy_skeleton(skeleton, state->fd.get(), part.native()));
    state->index.file_size = skeleton.size;
    for (const IndexEntry& entry : skeleton.entries) {
      state->index.entries.emplace(entry.name, entry);
    }
  }
  // EINVAL where the file system has no O_DIRECT (open(2)).
  state->direct = UniqueFd(::open(part.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
  state->regions = image.memory;
  return ImageWriter(std::move(state));
}

Status ImageWriter::write_pages(const WriteOptions& options) {
  PageFile file{state_->fd.get(), state_->direct.get(), state_->path.native()};
  std::vector<PageJob> jobs;
  state_->checksums.clear();
  const bool compressed = state_->area_start > 0;
  state_->stored.clear();
  for (const MemoryRegion& region : state_->regions) {
    const size_t blocks = (region.bytes_here() + kBlockSize - 1) / kBlockSize;
    state_->checksums.emplace_back(blocks);
    state_->stored.emplace_back(compressed ? blocks : 0);
    jobs.push_back({&region, 0});
    if (!compressed) {
      jobs.back().offset = state_->index.entries.at(memory_group(region.id) + "/pages").offset;
    }
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].checksums = &state_->checksums[i];
    jobs[i].stored = &state_->stored[i];
  }
  FERMATA_TRY(write_all_pages(file, jobs, options, compressed ? &state_->area : nullptr));
  for (MemoryRegion& region : state_->regions) region.source.reset();
  state_->pages_written = true;
  return Status::ok();
}

Status ImageWriter::finish_stored(State& state) {
  const int fd = state.fd.get();
  const std::string& path = state.path.native();
  const IndexEntry area{kStoredArea, state.area_start, state.area.next - state.area_start, 0,
                        Guard::kStored};
  for (size_t i = 0; i < state.regions.size(); ++i) {
    const std::string group = memory_group(state.regions[i].id);
    for (SkeletonDataset& dataset : state.datasets) {
      if (dataset.name == group + "/stored") dataset.content = encode_stored(state.stored[i]);
      if (dataset.name == group + "/pages") dataset.stored = state.stored[i];
    }
  }
  FERMATA_ASSIGN_STATUS(const Skeleton skeleton,
                        make_skeleton(state.header, state.index.index_size, state.datasets, &area));
  if (::ftruncate(fd, static_cast<off_t>(skeleton.size)) != 0) {
    return errno_status(Code::kStorage, errno, "cannot make " + path);
  }
  FERMATA_TRY(copy_skeleton(skeleton, fd, path));
  state.index.file_size = skeleton.size;
  for (const IndexEntry& entry : skeleton.entries) {
    if (entry.guard != Guard::kStored) state.index.entries.emplace(entry.name, entry);
  }
  state.index.entries.emplace(area.name, area);
  return Status::ok();
}

Result<WrittenImage> ImageWriter::finish() {
  State& state = *state_;
  if (!state.pages_written) {
    return failure(Code::kInternal, "finish() before write_pages() of " + state.path.native());
  }
  const int fd = state.fd.get();
  const std::string& path = state.path.native();
  if (state.area_start > 0) FERMATA_TRY_RESULT(finish_stored(state));
  for (size_t i = 0; i < state.regions.size(); ++i) {
    IndexEntry& entry = state.index.entries.at(memory_group(state.regions[i].id) + "/checksums");
    const auto bytes = std::as_bytes(std::span(state.checksums[i]));
    FERMATA_TRY_RESULT(write_exactly(fd, entry.offset, bytes, path));
    entry.checksum = checksum64(bytes);
  }

  Index& index = state.index;
  index.major = kFormatMajor;
  index.minor = kFormatMinor;
  FERMATA_ASSIGN(index.structure, structure_digest(fd, index, path));
  const std::vector<std::byte> bytes = encode_index(index);
  FERMATA_TRY_RESULT(write_exactly(fd, 0, bytes, path));
  if (::fsync(fd) != 0) {
    return Failure(errno_status(Code::kStorage, errno, "cannot sync " + path));
  }
  WrittenImage written;
  written.bytes = index.file_size;
  for (const MemoryRegion& region : state.regions) written.memory_bytes += region.bytes_here();
  written.digest = to_hex(digest128(bytes));
  state.finished = true;
  state.direct.reset();
  state.fd.reset();
  return written;
}

Status publish(const std::filesystem::path& part, const std::filesystem::path& final_name) {
  if (::rename(part.c_str(), final_name.c_str()) != 0) {
    return errno_status(Code::kStorage, errno,
                        fmt::format("cannot rename {} to {}", part.native(), final_name.native()));
  }
  return fsync_dir(final_name.parent_path());
}

uint64_t expected_image_bytes(const image::PodObjects& objects,
                              const std::vector<MemoryRegion>& memory) {
  // Index, and what HDF5 needs: about 3 KiB a memory region, and the gaps before aligned pages.
  uint64_t bytes = kMinIndexSize + (64 << 10) + objects.ByteSizeLong();
  for (const MemoryRegion& region : memory) {
    const uint64_t here = region.bytes_here();
    bytes += here + here / kBlockSize * sizeof(uint64_t) + 8192;
    bytes += region.extents.size() * kExtentRecordSize;
  }
  return bytes;
}

}  // namespace fermata::storage
