#include "node-agent/page_hashes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

#include "common/thread_priority.h"
#include "storage/checksum.h"

namespace fermata::node_agent {
namespace {

constexpr uint64_t kUnit = 1 << 20;  // what a thread reads at a time

struct Unit {
  uint64_t address;
  uint64_t length;
  size_t first;  // of its hashes
};

uint64_t hash_of(std::span<const std::byte> page) {
  // Equal to itself moved by one byte, and beginning with zero.
  const bool zeros = page.front() == std::byte{0} &&
                     std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
  if (zeros) return kHashOfZeros;
  const uint64_t hash = storage::checksum64(page);
  return hash == kHashOfZeros ? 1 : hash;
}

/// Calls `visit(address, hash)` for each page.
template <typename Visit>
void each_page(const PageHashes& of, Visit visit) {
  size_t index = 0;
  for (const Extent& extent : of.pages) {
    for (uint64_t at = 0; at < extent.length; at += kPageSize) {
      visit(extent.address + at, of.hashes[index++]);
    }
  }
}

/// Walks through the pages in ascending order.
class Cursor {
 public:
  explicit Cursor(const PageHashes& of) : of_(of) {}
  /// The hash of the page at `address`, which is not below the one asked for before.
  const uint64_t* at(uint64_t address) {
    while (extent_ < of_.pages.size() &&
           of_.pages[extent_].address + of_.pages[extent_].length <= address) {
      first_ += of_.pages[extent_].length / kPageSize;
      ++extent_;
    }
    if (extent_ == of_.pages.size() || of_.pages[extent_].address > address) return nullptr;
    return &of_.hashes[first_ + (address - of_.pages[extent_].address) / kPageSize];
  }

 private:
  const PageHashes& of_;
  size_t extent_ = 0;
  size_t first_ = 0;
};

}  // namespace

Result<PageHashes> hash_pages(const MemoryRegion& region, unsigned threads,
                              const std::function<bool()>& waited_for) {
  PageHashes result;
  result.pages = only(region.extents, Where::kHere);
  std::vector<Unit> units;
  size_t pages = 0;
  // By the region's own extents: a source is asked for no more than one of them at a time.
  for (const Extent& extent : region.extents) {
    if (extent.where != Where::kHere) continue;
    for (uint64_t done = 0; done < extent.length; done += kUnit) {
      const uint64_t length = std::min(kUnit, extent.length - done);
      units.push_back({extent.address + done, length, pages});
      pages += length / kPageSize;
    }
  }
  result.hashes.resize(pages);

  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status failure;  // the first; guarded by mutex
  const auto work = [&] {
    std::vector<std::byte> buffer(kUnit);
    ThreadPriority priority;
    const auto goes_on = [&](size_t i) {
      const bool more = i < units.size();
      priority.step_back(more && waited_for && !waited_for());
      return more;
    };
    for (size_t i = next++; goes_on(i); i = next++) {
      const std::span<std::byte> bytes = std::span(buffer).first(units[i].length);
      Status read = region.source->read(units[i].address, bytes);
      if (!read) {
        const std::lock_guard lock(mutex);
        if (failure) failure = std::move(read);
        next = units.size();
        continue;
      }
      for (uint64_t at = 0; at < bytes.size(); at += kPageSize) {
        result.hashes[units[i].first + at / kPageSize] = hash_of(bytes.subspan(at, kPageSize));
      }
    }
  };
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < threads && i < units.size() / 4; ++i) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: fewer do it as well
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  FERMATA_TRY_RESULT(failure);
  return result;
}

Extents unchanged_pages(const PageHashes& now, const PageHashes& then) {
  Extents pages;
  Cursor cursor(then);
  each_page(now, [&](uint64_t address, uint64_t hash) {
    const uint64_t* before = cursor.at(address);
    if (before != nullptr && *before == hash) append(pages, address, kPageSize);
  });
  return pages;
}

Extents zero_pages(const PageHashes& now) {
  Extents pages;
  each_page(now, [&](uint64_t address, uint64_t hash) {
    if (hash == kHashOfZeros) append(pages, address, kPageSize);
  });
  return pages;
}

PageHashes combined(const PageHashes& older, const PageHashes& newer, const Extents& wanted) {
  PageHashes result;
  Cursor old_cursor(older);
  Cursor new_cursor(newer);
  for (const Extent& extent : wanted) {
    for (uint64_t at = extent.address; at < extent.address + extent.length; at += kPageSize) {
      const uint64_t* hash = new_cursor.at(at);
      if (hash == nullptr) hash = old_cursor.at(at);
      if (hash == nullptr) continue;
      append(result.pages, at, kPageSize);
      result.hashes.push_back(*hash);
    }
  }
  return result;
}

}  // namespace fermata::node_agent
