#include "node-agent/copy_arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; the headers of Debian 12 have it, older ones do not
#endif

namespace fermata::node_agent {
namespace {

constexpr uint64_t kSmall = 64U << 10;  // a call costs as much as copying that
constexpr uint64_t kChunk = 4U << 20;   // small enough to share work evenly, large against a call

/// The copy of one region: extents lie one after the other in the arena.
class CopiedSource final : public MemorySource {
 public:
  explicit CopiedSource(const std::byte* base) : next_(base) {}

  /// Extents come in ascending order.
  void add(const Extent& extent) {
    places_.push_back({extent.address, extent.length, next_});
    next_ += extent.length;
  }

  Status read(uint64_t address, std::span<std::byte> out) const override {
    const auto after = std::upper_bound(
        places_.begin(), places_.end(), address,
        [](uint64_t wanted, const Place& place) { return wanted < place.address; });
    if (after != places_.begin()) {
      const Place& place = *(after - 1);
      const uint64_t offset = address - place.address;
      if (offset < place.length && out.size() <= place.length - offset) {
        std::memcpy(out.data(), place.bytes + offset, out.size());
        return {};
      }
    }
    return {Code::kInternal, fmt::format("no copy of the memory at {:#x}", address)};
  }

 private:
  struct Place {
    uint64_t address;
    uint64_t length;
    const std::byte* bytes;
  };
  std::vector<Place> places_;
  const std::byte* next_;
};

/// Pieces that one thread reads in one go: a large one, or some small ones.
struct Chunk {
  const MemorySource* source = nullptr;
  std::vector<MemoryPiece> pieces;
  size_t bytes = 0;
};

Status read_chunk(const Chunk& chunk) {
  if (chunk.pieces.size() > 1) return chunk.source->read_scattered(chunk.pieces);
  return chunk.source->read(chunk.pieces.front().address, chunk.pieces.front().out);
}

/// Adds a piece to the last chunk, if both are of small ones.
void add_piece(std::vector<Chunk>& chunks, const MemorySource* source, const MemoryPiece& piece,
               bool scattered) {
  constexpr size_t kMostPieces = 512;
  constexpr size_t kMostBytes = size_t{2} << 20;  // so that every thread has some
  const bool joins = scattered && piece.out.size() < kSmall && !chunks.empty() &&
                     chunks.back().source == source && chunks.back().pieces.size() < kMostPieces &&
                     chunks.back().bytes < kMostBytes &&
                     chunks.back().pieces.front().out.size() < kSmall;
  if (!joins) chunks.push_back({source, {}});
  chunks.back().pieces.push_back(piece);
  chunks.back().bytes += piece.out.size();
}

Status copy_chunks(const std::vector<Chunk>& chunks, unsigned threads) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status failure;  // the first; guarded by mutex
  const auto work = [&] {
    for (size_t i = next++; i < chunks.size(); i = next++) {
      Status read = read_chunk(chunks[i]);
      if (read) continue;
      const std::lock_guard lock(mutex);
      if (failure) failure = std::move(read);
      next = chunks.size();
    }
  };
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < threads && i < chunks.size(); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return failure;
}

}  // namespace

CopyArena::~CopyArena() {
  if (base_ != nullptr) munmap(base_, capacity_);
}

Status CopyArena::grow(uint64_t bytes) {
  if (bytes <= capacity_) return {};
  const uint64_t wanted = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* place = base_ == nullptr ? mmap(nullptr, wanted, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                                 : mremap(base_, capacity_, wanted, MREMAP_MAYMOVE);
  if (place == MAP_FAILED) {
    return errno_status(errno, fmt::format("room for a copy of {} bytes of the job", bytes));
  }
  base_ = static_cast<std::byte*>(place);
  capacity_ = wanted;
  madvise(base_, capacity_, MADV_HUGEPAGE);  // a kernel without huge pages does without
  // A fork of ours (the thaw guard) would make every later write to the arena a fault.
  madvise(base_, capacity_, MADV_DONTFORK);
  madvise(base_, capacity_, MADV_DONTDUMP);
  return {};
}

Result<std::byte*> CopyArena::room(uint64_t bytes) {
  FERMATA_TRY_RESULT(grow(bytes));
  return base_;
}

Status CopyArena::warm(uint64_t bytes, uint64_t from) {
  FERMATA_TRY(grow(from + bytes));
  if (bytes > 0 && madvise(base_ + from, bytes, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
    return errno_status(errno, fmt::format("memory for a copy of {} bytes of the job", bytes));
  }
  return {};
}

Result<std::vector<MemoryRegion>> CopyArena::copy(const std::vector<MemoryRegion>& regions,
                                                  unsigned threads, bool scattered, uint64_t from) {
  uint64_t total = from;
  for (const MemoryRegion& region : regions) total += region.bytes_here();
  FERMATA_TRY_RESULT(grow(total));

  std::vector<MemoryRegion> copies;
  std::vector<Chunk> chunks;
  std::byte* next = base_ + from;
  for (const MemoryRegion& region : regions) {
    auto copied = std::make_shared<CopiedSource>(next);
    for (const Extent& extent : region.extents) {
      if (extent.where != Where::kHere) continue;
      copied->add(extent);
      for (uint64_t done = 0; done < extent.length; done += kChunk) {
        const uint64_t length = std::min(kChunk, extent.length - done);
        add_piece(chunks, region.source.get(), {extent.address + done, {next + done, length}},
                  scattered);
      }
      next += extent.length;
    }
    copies.push_back({region.id, region.extents, std::move(copied)});
  }
  FERMATA_TRY_RESULT(copy_chunks(chunks, threads));
  return copies;
}

void CopyArena::release() {
  if (base_ != nullptr) madvise(base_, capacity_, MADV_FREE);
}

}  // namespace fermata::node_agent
