#include "storage/format.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>

#include "storage/image.h"

namespace fermata::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

// Like PNG's: a byte that is not text, and line ends that a transfer as text would change.
constexpr std::array<unsigned char, 8> kMagic{0x89, 'F', 'R', 'M', '\r', '\n', 0x1a, '\n'};

struct IndexHead {
  std::array<unsigned char, 8> magic;
  uint16_t major;
  uint16_t minor;
  uint32_t index_size;
  uint64_t file_size;
  uint32_t entry_count;
  uint32_t entry_size;
  Digest structure;
  std::array<std::byte, 16> reserved;
};
static_assert(sizeof(IndexHead) == 64);

struct RawEntry {
  std::array<char, 64> name;  // padded with zeros, at least one
  uint64_t offset;
  uint64_t length;
  uint64_t checksum;
  uint32_t guard;
  uint32_t reserved;
};
static_assert(sizeof(RawEntry) == 96);

struct RawExtent {
  uint64_t address;
  uint64_t length;
  uint32_t where;
  uint32_t reserved;
};
static_assert(sizeof(RawExtent) == kExtentRecordSize);

struct RawStored {
  uint64_t offset;
  uint32_t length;
  uint32_t codec;
};
static_assert(sizeof(RawStored) == kStoredBlockSize);

// The last 8 bytes of the index: the checksum of all before them.
constexpr size_t kTailSize = sizeof(uint64_t);

Failure damaged(std::string_view path, std::string_view what) {
  return failure(Code::kDamaged, fmt::format("image {}: {}", path, what));
}

Status check_entries(const Index& index, std::string_view path) {
  std::vector<const IndexEntry*> placed;
  for (const auto& [name, entry] : index.entries) {
    const bool blocks = entry.guard != Guard::kWhole;
    if (!blocks && entry.length > kMaxDatasetSize) {
      return damaged(path,
                     fmt::format("dataset {} says it is {} bytes long", entry.name, entry.length))
          .value();
    }
    if (blocks && (entry.offset % kPageSize != 0 || entry.length % kPageSize != 0)) {
      return damaged(path, fmt::format("dataset {} is not of whole pages", entry.name)).value();
    }
    if (entry.length == 0) continue;
    if (entry.offset < index.index_size || entry.offset > index.file_size ||
        entry.length > index.file_size - entry.offset) {
      return damaged(path, fmt::format("dataset {} lies outside the file", entry.name)).value();
    }
    placed.push_back(&entry);
  }
  std::sort(placed.begin(), placed.end(),
            [](const IndexEntry* a, const IndexEntry* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < placed.size(); ++i) {
    if (placed[i]->offset - placed[i - 1]->offset < placed[i - 1]->length) {
      return damaged(path, fmt::format("datasets {} and {} overlap", placed[i - 1]->name,
                                       placed[i]->name))
          .value();
    }
  }
  return Status::ok();
}

}  // namespace

const IndexEntry* Index::find(std::string_view name) const {
  const auto found = entries.find(name);
  return found == entries.end() ? nullptr : &found->second;
}

uint64_t index_size_for(size_t entries) {
  const uint64_t needed = sizeof(IndexHead) + entries * sizeof(RawEntry) + kTailSize;
  const uint64_t size = std::max(kMinIndexSize, std::bit_ceil(needed));
  return size <= kMaxIndexSize ? size : 0;
}

std::vector<std::byte> encode_index(const Index& index) {
  std::vector<std::byte> bytes(index.index_size);
  IndexHead head{};
  head.magic = kMagic;
  head.major = index.major;
  head.minor = index.minor;
  head.index_size = static_cast<uint32_t>(index.index_size);
  head.file_size = index.file_size;
  head.entry_count = static_cast<uint32_t>(index.entries.size());
  head.entry_size = sizeof(RawEntry);
  head.structure = index.structure;
  std::memcpy(bytes.data(), &head, sizeof head);
  std::byte* at = bytes.data() + sizeof head;
  for (const auto& [name, entry] : index.entries) {
    RawEntry raw{};
    name.copy(raw.name.data(), raw.name.size() - 1);
    raw.offset = entry.offset;
    raw.length = entry.length;
    raw.checksum = entry.checksum;
    raw.guard = static_cast<uint32_t>(entry.guard);
    std::memcpy(at, &raw, sizeof raw);
    at += sizeof raw;
  }
  const uint64_t sum = checksum64(std::span(bytes).first(bytes.size() - kTailSize));
  std::memcpy(bytes.data() + bytes.size() - kTailSize, &sum, kTailSize);
  return bytes;
}

Result<Index> read_index(int fd, std::string_view path, std::string* digest) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return errno_failure(errno, fmt::format("image {}", path));
  if (!S_ISREG(status.st_mode)) return damaged(path, "is not a regular file");
  const auto file_size = static_cast<uint64_t>(status.st_size);

  IndexHead head{};
  if (file_size < kMinIndexSize || file_size > kMaxFileSize) {
    return damaged(path,
                   fmt::format("{} bytes long: not a Fermata image, or cut short", file_size));
  }
  FERMATA_TRY_RESULT(read_exactly(fd, 0, std::as_writable_bytes(std::span(&head, 1)), path));
  if (head.magic != kMagic) {
    return damaged(path, "not a Fermata image, or its first bytes are damaged");
  }
  if (!std::has_single_bit(head.index_size) || head.index_size < kMinIndexSize ||
      head.index_size > kMaxIndexSize || head.index_size > file_size) {
    return damaged(path, fmt::format("its index says it is {} bytes long", head.index_size));
  }
  std::vector<std::byte> bytes(head.index_size);
  FERMATA_TRY_RESULT(read_exactly(fd, 0, bytes, path));
  std::memcpy(&head, bytes.data(), sizeof head);  // the file may have changed since
  uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + bytes.size() - kTailSize, kTailSize);
  if (sum != checksum64(std::span(bytes).first(bytes.size() - kTailSize))) {
    return damaged(path, "its index does not match its checksum");
  }
  // The layout up to here is the same in every version to come: only now can "newer" be told from
  // "damaged".
  if (head.major > kFormatMajor) {
    return failure(Code::kUnsupported,
                   fmt::format("image {} has format {}.{}, this fermata reads up to {}.x: use the "
                               "version that wrote it, or a newer one",
                               path, head.major, head.minor, kFormatMajor));
  }
  if (head.major == 0) return damaged(path, "its format is 0");
  if (head.file_size != file_size) {
    return damaged(path,
                   fmt::format("{} bytes long, but {} were written", file_size, head.file_size));
  }
  const uint64_t room = bytes.size() - sizeof head - kTailSize;
  if (head.entry_size != sizeof(RawEntry) || head.entry_count > room / sizeof(RawEntry)) {
    return damaged(path, fmt::format("its index lists {} entries of {} bytes", head.entry_count,
                                     head.entry_size));
  }

  Index index;
  index.major = head.major;
  index.minor = head.minor;
  index.index_size = head.index_size;
  index.file_size = head.file_size;
  index.structure = head.structure;
  for (uint32_t i = 0; i < head.entry_count; ++i) {
    RawEntry raw{};
    std::memcpy(&raw, bytes.data() + sizeof head + i * sizeof raw, sizeof raw);
    const size_t length = strnlen(raw.name.data(), raw.name.size());
    if (length == 0 || length == raw.name.size() || raw.guard > 2) {
      return damaged(path, fmt::format("entry {} of its index makes no sense", i));
    }
    std::string name(raw.name.data(), length);
    const IndexEntry entry{name, raw.offset, raw.length, raw.checksum,
                           static_cast<Guard>(raw.guard)};
    if (!index.entries.emplace(std::move(name), entry).second) {
      return damaged(path, fmt::format("dataset {} is listed twice", entry.name));
    }
  }
  FERMATA_TRY_RESULT(check_entries(index, path));
  if (digest != nullptr) *digest = to_hex(digest128(bytes));
  return index;
}

std::string memory_group(MemoryId id) {
  return fmt::format("/memory/{}{}", id.kind == MemoryId::Kind::kObject ? "object-" : "", id.id);
}

std::optional<MemoryId> parse_memory_group(std::string_view group) {
  constexpr std::string_view kPrefix = "/memory/";
  constexpr std::string_view kObject = "object-";
  if (!group.starts_with(kPrefix)) return std::nullopt;
  group.remove_prefix(kPrefix.size());
  MemoryId id;
  if (group.starts_with(kObject)) {
    id.kind = MemoryId::Kind::kObject;
    group.remove_prefix(kObject.size());
  }
  const auto [end, error] = std::from_chars(group.data(), group.data() + group.size(), id.id);
  if (error != std::errc() || end != group.data() + group.size() || id.id == 0) return std::nullopt;
  if (group.front() == '0') return std::nullopt;  // one spelling for one id
  return id;
}

std::vector<std::byte> encode_extents(const std::vector<Extent>& extents) {
  std::vector<std::byte> bytes(extents.size() * kExtentRecordSize);
  std::byte* at = bytes.data();
  for (const Extent& extent : extents) {
    const RawExtent raw{extent.address, extent.length, static_cast<uint32_t>(extent.where), 0};
    std::memcpy(at, &raw, sizeof raw);
    at += sizeof raw;
  }
  return bytes;
}

Result<std::vector<Extent>> decode_extents(std::span<const std::byte> bytes,
                                           std::string_view what) {
  if (bytes.size() % kExtentRecordSize != 0) {
    return failure(Code::kDamaged, fmt::format("{}: {} bytes are not a whole number of extents",
                                               what, bytes.size()));
  }
  std::vector<Extent> extents;
  extents.reserve(bytes.size() / kExtentRecordSize);
  for (size_t at = 0; at < bytes.size(); at += kExtentRecordSize) {
    RawExtent raw{};
    std::memcpy(&raw, bytes.data() + at, sizeof raw);
    if (raw.where > static_cast<uint32_t>(Where::kFile)) {
      return failure(Code::kDamaged, fmt::format("{}: extent at {:#x} is nowhere ({})", what,
                                                 raw.address, raw.where));
    }
    extents.push_back({raw.address, raw.length, static_cast<Where>(raw.where)});
  }
  FERMATA_TRY_RESULT(check_extents(extents, what));
  return extents;
}

std::vector<std::byte> encode_stored(const std::vector<StoredBlock>& blocks) {
  std::vector<std::byte> bytes(blocks.size() * kStoredBlockSize);
  std::byte* at = bytes.data();
  for (const StoredBlock& block : blocks) {
    const RawStored raw{block.offset, block.length, static_cast<uint32_t>(block.codec)};
    std::memcpy(at, &raw, sizeof raw);
    at += sizeof raw;
  }
  return bytes;
}

Result<std::vector<StoredBlock>> decode_stored(std::span<const std::byte> bytes,
                                               const IndexEntry& area, std::string_view what) {
  if (bytes.size() % kStoredBlockSize != 0) {
    return failure(Code::kDamaged, fmt::format("{}: {} bytes are not a whole number of blocks",
                                               what, bytes.size()));
  }
  std::vector<StoredBlock> blocks;
  blocks.reserve(bytes.size() / kStoredBlockSize);
  for (size_t at = 0; at < bytes.size(); at += kStoredBlockSize) {
    RawStored raw{};
    std::memcpy(&raw, bytes.data() + at, sizeof raw);
    const auto codec = static_cast<Codec>(raw.codec);
    const bool known = codec == Codec::kNone || codec == Codec::kLz4 || codec == Codec::kZstd;
    const bool inside = raw.offset >= area.offset && raw.offset - area.offset <= area.length &&
                        raw.length <= area.length - (raw.offset - area.offset);
    const bool fits = codec == Codec::kNone ? raw.length == kBlockSize : raw.length < kBlockSize;
    if (!known || !inside || !fits) {
      return failure(Code::kDamaged,
                     fmt::format("{}: block {} of {} bytes at {}, filter {}, makes no sense", what,
                                 at / kStoredBlockSize, raw.length, raw.offset, raw.codec));
    }
    blocks.push_back({raw.offset, raw.length, codec});
  }
  return blocks;
}

Status check_extents(const std::vector<Extent>& extents, std::string_view what) {
  uint64_t end = 0;
  for (const Extent& extent : extents) {
    const bool pages = extent.address % kPageSize == 0 && extent.length % kPageSize == 0;
    const bool fits = extent.length <= std::numeric_limits<uint64_t>::max() - extent.address;
    if (!pages || !fits || extent.length == 0 || extent.address < end) {
      return {Code::kDamaged, fmt::format("{}: extent at {:#x} of {:#x} bytes is {}", what,
                                          extent.address, extent.length,
                                          !pages               ? "not of whole pages"
                                          : extent.length == 0 ? "empty"
                                          : !fits              ? "past the end of memory"
                                                               : "not after the one before it")};
    }
    end = extent.address + extent.length;
  }
  return Status::ok();
}

Status read_exactly(int fd, uint64_t offset, std::span<std::byte> out, std::string_view path) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_status(Code::kStorage, errno,
                          fmt::format("cannot read {} at offset {}", path, offset + done));
    }
    if (n == 0) {
      return {Code::kDamaged, fmt::format("{} ends at {}, bytes up to {} were written", path,
                                          offset + done, offset + out.size())};
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Status write_exactly(int fd, uint64_t offset, std::span<const std::byte> bytes,
                     std::string_view path) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_status(Code::kStorage, errno,
                          fmt::format("cannot write {} at offset {}", path, offset + done));
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Result<Digest> structure_digest(int fd, const Index& index, std::string_view path) {
  std::vector<const IndexEntry*> skip;
  for (const auto& [name, entry] : index.entries) {
    if (entry.guard != Guard::kWhole && entry.length > 0) skip.push_back(&entry);
  }
  std::sort(skip.begin(), skip.end(),
            [](const IndexEntry* a, const IndexEntry* b) { return a->offset < b->offset; });
  DigestStream digest;
  std::vector<std::byte> buffer(kBlockSize);
  uint64_t at = index.index_size;
  const auto add_until = [&](uint64_t end) -> Status {
    while (at < end) {
      const auto piece = std::span(buffer).first(std::min<uint64_t>(buffer.size(), end - at));
      FERMATA_TRY(read_exactly(fd, at, piece, path));
      digest.add(piece);
      at += piece.size();
    }
    return Status::ok();
  };
  for (const IndexEntry* entry : skip) {
    FERMATA_TRY_RESULT(add_until(entry->offset));
    at = entry->offset + entry->length;
  }
  FERMATA_TRY_RESULT(add_until(index.file_size));
  return digest.value();
}

}  // namespace fermata::storage
