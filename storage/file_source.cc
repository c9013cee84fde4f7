#include "storage/file_source.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "storage/checksum.h"
#include "storage/format.h"

namespace fermata::storage {

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

Status FileSource::read_block(uint64_t block, std::span<std::byte> out) const {
  FERMATA_TRY(read_file(offset_ + block * kBlockSize, out));
  if (checksum64(out) != checksums_[block]) {
    return {Code::kDamaged, fmt::format("image {}: block {} of {} does not match its checksum",
                                        file_->path, block, name_)};
  }
  return Status::ok();
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
