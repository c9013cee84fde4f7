#include "storage/file_source.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "storage/checksum.h"
#include "storage/format.h"

namespace fermata::storage {
namespace {

/// For O_DIRECT: page-aligned.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t size)
      : bytes_(static_cast<std::byte*>(::operator new(size, kAlignment)), size) {}
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { ::operator delete(bytes_.data(), kAlignment); }
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{kPageSize};
  std::span<std::byte> bytes_;
};

}  // namespace

struct FileSource::CachedBlock {
  uint64_t number = 0;
  std::vector<std::byte> bytes;
};

FileSource::FileSource(std::shared_ptr<const OpenImage> file, std::string name, uint64_t offset,
                       PageLayout layout, std::vector<uint64_t> checksums)
    : file_(std::move(file)),
      name_(std::move(name)),
      offset_(offset),
      layout_(std::move(layout)),
      checksums_(std::move(checksums)) {}

FileSource::FileSource(std::shared_ptr<const OpenImage> file, std::string name,
                       std::vector<StoredBlock> stored, PageLayout layout,
                       std::vector<uint64_t> checksums)
    : file_(std::move(file)),
      name_(std::move(name)),
      offset_(0),
      layout_(std::move(layout)),
      checksums_(std::move(checksums)),
      stored_(std::move(stored)) {}

FileSource::~FileSource() = default;

uint64_t FileSource::block_length(uint64_t block) const {
  return std::min(kBlockSize, layout_.size() - block * kBlockSize);
}

Status FileSource::read_file(uint64_t offset, std::span<std::byte> out) const {
  const bool aligned = reinterpret_cast<uintptr_t>(out.data()) % kPageSize == 0 &&
                       offset % kPageSize == 0 && out.size() % kPageSize == 0;
  size_t done = 0;
  if (file_->direct && aligned) {
    // Whatever it does not read, for lack of alignment or of a file's end, is read as usual.
    const ssize_t n =
        ::pread(file_->direct.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (n > 0) done = static_cast<size_t>(n);
  }
  return read_exactly(file_->fd.get(), offset + done, out.subspan(done), file_->path);
}

Status FileSource::check(uint64_t block, std::span<const std::byte> bytes) const {
  if (checksum64(bytes) == checksums_[block]) return Status::ok();
  return {Code::kDamaged, fmt::format("image {}: block {} of {} does not match its checksum",
                                      file_->path, block, name_)};
}

Status FileSource::read_stored(uint64_t block, std::span<std::byte> out) const {
  const StoredBlock& stored = stored_[block];
  if (stored.codec == Codec::kNone && out.size() == kBlockSize) {
    FERMATA_TRY(read_file(stored.offset, out));
    return check(block, out);
  }
  const AlignedBuffer packed((stored.length + kPageSize - 1) / kPageSize * kPageSize);
  FERMATA_TRY(read_file(stored.offset, packed.bytes()));
  FERMATA_TRY(check(block, packed.bytes()));
  const std::span<const std::byte> bytes = packed.bytes().first(stored.length);
  // What is stored is whole blocks: of the last one only a part is ours.
  if (stored.codec == Codec::kNone) {
    std::memcpy(out.data(), bytes.data(), out.size());
    return Status::ok();
  }
  const auto unpack = [&](std::span<std::byte> whole) {
    return decompress(stored.codec, bytes, whole)
        .within(fmt::format("image {}: block {} of {}", file_->path, block, name_));
  };
  if (out.size() == kBlockSize) return unpack(out);
  const AlignedBuffer whole(kBlockSize);
  FERMATA_TRY(unpack(whole.bytes()));
  std::memcpy(out.data(), whole.bytes().data(), out.size());
  return Status::ok();
}

Status FileSource::read_block(uint64_t block, std::span<std::byte> out) const {
  if (!stored_.empty()) return read_stored(block, out);
  FERMATA_TRY(read_file(offset_ + block * kBlockSize, out));
  return check(block, out);
}

Result<std::shared_ptr<const FileSource::CachedBlock>> FileSource::cached(uint64_t block) const {
  const std::lock_guard lock(mutex_);
  for (const auto& entry : cache_) {
    if (entry != nullptr && entry->number == block) return entry;
  }
  auto fresh = std::make_shared<CachedBlock>();
  fresh->number = block;
  fresh->bytes.resize(block_length(block));
  FERMATA_TRY_RESULT(read_block(block, fresh->bytes));
  cache_[oldest_] = fresh;
  oldest_ = (oldest_ + 1) % cache_.size();
  return fresh;
}

Status FileSource::read(uint64_t address, std::span<std::byte> out) const {
  while (!out.empty()) {
    const PageLayout::Run* run = layout_.run_at_address(address);
    if (run == nullptr) {
      return {Code::kInternal,
              fmt::format("{} of {} has no bytes at {:#x}", name_, file_->path, address)};
    }
    const uint64_t skip = address - run->address;
    const uint64_t position = run->position + skip;
    const uint64_t block = position / kBlockSize;
    const uint64_t in_block = position % kBlockSize;
    const uint64_t length =
        std::min<uint64_t>({out.size(), run->length - skip, block_length(block) - in_block});
    if (length == block_length(block)) {
      FERMATA_TRY(read_block(block, out.first(length)));
    } else {
      FERMATA_ASSIGN_STATUS(const auto bytes, cached(block));
      std::memcpy(out.data(), bytes->bytes.data() + in_block, length);
    }
    address += length;
    out = out.subspan(length);
  }
  return Status::ok();
}

}  // namespace fermata::storage
