#include "storage/page_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "common/shared_buffer.h"
#include "common/thread_priority.h"
#include "storage/format.h"
#include "storage/page_layout.h"
#include "storage/unit_order.h"

namespace fermata::storage {
namespace {

// What a thread reads, sums and writes at a time: whole blocks. All buffers together stay in the
// cache of the processors.
constexpr uint64_t kUnit = kBlockSize;

// How soon it is seen that somebody waits for what is held back.
constexpr std::chrono::milliseconds kLook{5};

/// Spreads bytes over time. Any thread.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Pace(uint64_t bytes_per_second) : rate_(bytes_per_second) {}

  /// Returns when `bytes` more may be moved, or `hurry` says so. That may be null.
  void wait(uint64_t bytes, const std::function<bool()>& hurry) {
    if (rate_ == 0) return;
    Clock::time_point until;
    {
      const std::lock_guard lock(mutex_);
      next_ = std::max(next_, Clock::now());
      until = next_;
      next_ += std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(rate_)));
    }
    if (!hurry) std::this_thread::sleep_until(until);
    while (hurry && !hurry() && Clock::now() < until) std::this_thread::sleep_for(kLook);
  }

 private:
  const uint64_t rate_;
  std::mutex mutex_;
  Clock::time_point next_{};
};

class PagePump {
 public:
  PagePump(const PageFile& file, const std::vector<PageJob>& jobs, const WriteOptions& options,
           StoredArea* area)
      : file_(file),
        area_(area),
        jobs_(jobs),
        options_(options),
        pace_(options.bytes_per_second),
        direct_(file.direct >= 0) {
    for (const PageJob& job : jobs) {
      layouts_.emplace_back(job.region->extents);
      first_unit_.push_back(units_);
      units_ += (layouts_.back().size() + kUnit - 1) / kUnit;
      total_ += layouts_.back().size();
    }
  }

  Status run() {
    if (units_ == 0) return Status::ok();
    order_.emplace(units_);
    const auto threads =
        static_cast<unsigned>(std::clamp<uint64_t>(units_, 1, std::max(options_.threads, 1U)));
    // Compressed, a thread has one more buffer: what it compresses.
    const uint64_t lane_size = (WriteLane::kBuffers + (area_ != nullptr ? 1 : 0)) * kUnit;
    FERMATA_ASSIGN_STATUS(const SharedBuffer memory,
                          SharedBuffer::make("fermata-pages", threads * lane_size));
    for (const PageJob& job : jobs_) {
      if (job.region->source) job.region->source->prepare_reads_into(memory);
    }
    std::vector<std::thread> helpers;
    for (unsigned i = 0; i < threads; ++i) {
      const auto lane = memory.bytes().subspan(i * lane_size, lane_size);
      try {
        helpers.emplace_back([this, lane] { work(lane); });
      } catch (const std::system_error&) {
        break;  // no more threads to be had: fewer do it as well
      }
    }
    if (helpers.empty()) work(memory.bytes().first(lane_size));
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

 private:
  void work(std::span<std::byte> memory) {
    const std::unique_ptr<WriteLane> lane =
        WriteLane::open(file_, memory.first(WriteLane::kBuffers * kUnit), direct_);
    if (Status status = fill(*lane, memory.subspan(WriteLane::kBuffers * kUnit)); !status)
      fail(std::move(status));
    if (Status status = lane->finish(); !status) fail(std::move(status));
  }

  Status fill(WriteLane& lane, std::span<std::byte> raw) {
    ThreadPriority priority;
    while (!stop_) {
      // The calling thread's is not ours to change.
      const bool waited_for = options_.waited_for && options_.waited_for();
      if (::gettid() != caller_) priority.step_back(options_.background && !waited_for);
      const bool short_of_memory = options_.memory_is_short && options_.memory_is_short();
      const std::optional<uint64_t> unit =
          short_of_memory ? order_->next([this](uint64_t one) { return frees(one); }, kUnit / 2)
                          : order_->next();
      if (!unit) break;
      const auto [job, position, length] = place_of(*unit);
      if (!waited_for) pace_.wait(length, options_.waited_for);
      FERMATA_ASSIGN_STATUS(const std::span<std::byte> buffer, lane.buffer());
      if (area_ == nullptr) {
        FERMATA_TRY(read(job, position, buffer.first(length)));
        sum(jobs_[job], position, buffer.first(length));
        FERMATA_TRY(lane.write(jobs_[job].offset + position, length));
      } else {
        FERMATA_TRY(read(job, position, raw.first(length)));
        FERMATA_TRY(pack(jobs_[job], position, raw, length, lane, buffer));
      }
      report(length);
    }
    return Status::ok();
  }

  struct Place {
    size_t job = 0;
    uint64_t position = 0;
    uint64_t length = 0;
  };

  Place place_of(uint64_t unit) const {
    const auto after = std::upper_bound(first_unit_.begin(), first_unit_.end(), unit);
    const auto job = static_cast<size_t>(after - first_unit_.begin()) - 1;
    const uint64_t position = (unit - first_unit_[job]) * kUnit;
    return {job, position, std::min(kUnit, layouts_[job].size() - position)};
  }

  uint64_t frees(uint64_t unit) const {
    const Place place = place_of(unit);
    uint64_t sum = 0;
    for (uint64_t done = 0; done < place.length;) {
      const PageLayout::Run& run = layouts_[place.job].run_at_position(place.position + done);
      const uint64_t skip = place.position + done - run.position;
      const uint64_t length = std::min(run.length - skip, place.length - done);
      sum += jobs_[place.job].region->source->frees(run.address + skip, length);
      done += length;
    }
    return sum;
  }

  Status read(size_t number, uint64_t position, std::span<std::byte> bytes) {
    const PageJob& job = jobs_[number];
    size_t filled = 0;
    while (filled < bytes.size()) {
      const PageLayout::Run& run = layouts_[number].run_at_position(position + filled);
      const uint64_t skip = position + filled - run.position;
      const uint64_t length = std::min<uint64_t>(run.length - skip, bytes.size() - filled);
      Status status = job.region->source->read(run.address + skip, bytes.subspan(filled, length));
      if (!status) return status.within(memory_group(job.region->id));
      filled += length;
    }
    return Status::ok();
  }

  static void sum(const PageJob& job, uint64_t position, std::span<const std::byte> bytes) {
    for (uint64_t at = 0; at < bytes.size(); at += kBlockSize) {
      const auto block = bytes.subspan(at, std::min<uint64_t>(kBlockSize, bytes.size() - at));
      (*job.checksums)[(position + at) / kBlockSize] = checksum64(block);
    }
  }

  /// HDF5 wants whole blocks: what the last one lacks is zeros.
  Status pack(const PageJob& job, uint64_t position, std::span<std::byte> raw, uint64_t length,
              WriteLane& lane, std::span<std::byte> out) {
    const uint64_t whole = (length + kBlockSize - 1) / kBlockSize * kBlockSize;
    std::memset(raw.data() + length, 0, whole - length);
    std::array<StoredBlock, kUnit / kBlockSize> blocks;
    uint64_t packed = 0;
    for (uint64_t at = 0; at < whole; at += kBlockSize) {
      const auto block = raw.subspan(at, kBlockSize);
      const Codec codec = codec_for(block);
      // Less than a page is not worth its unpacking.
      size_t size = compress(codec, block, out.subspan(packed, kBlockSize - kPageSize));
      StoredBlock& stored = blocks[at / kBlockSize];
      stored = {packed, static_cast<uint32_t>(size), codec};
      if (size == 0) {
        size = kBlockSize;
        stored = {packed, static_cast<uint32_t>(size), Codec::kNone};
        std::memcpy(out.data() + packed, block.data(), size);
      }
      const uint64_t end = (packed + size + kPageSize - 1) / kPageSize * kPageSize;
      std::memset(out.data() + packed + size, 0, end - packed - size);
      (*job.checksums)[(position + at) / kBlockSize] =
          checksum64(out.subspan(packed, end - packed));
      packed = end;
    }
    const uint64_t offset = area_->next.fetch_add(packed);
    for (uint64_t at = 0; at < whole; at += kBlockSize) {
      StoredBlock stored = blocks[at / kBlockSize];
      stored.offset += offset;
      (*job.stored)[(position + at) / kBlockSize] = stored;
    }
    return lane.write(offset, packed);
  }

  /// With "auto" a piece of each block is tried: LZ4 where that is a quarter shorter.
  Codec codec_for(std::span<const std::byte> block) const {
    switch (area_->compression) {
      case Compression::kLz4:
        return Codec::kLz4;
      case Compression::kZstd:
        return Codec::kZstd;
      case Compression::kNone:
        return Codec::kNone;
      case Compression::kAuto:
        break;
    }
    constexpr size_t kSample = 16U << 10;
    std::array<std::byte, kSample / 4 * 3> trial;
    const auto sample = block.subspan(block.size() / 2, kSample);
    return compress(Codec::kLz4, sample, trial) > 0 ? Codec::kLz4 : Codec::kNone;
  }

  void report(uint64_t bytes) {
    if (!options_.progress) return;
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    options_.progress(done_, total_);
  }

  void fail(Status status) {
    stop_ = true;
    const std::lock_guard lock(mutex_);
    if (failure_) failure_ = std::move(status);
  }

  const PageFile& file_;
  StoredArea* area_;
  const std::vector<PageJob>& jobs_;
  const WriteOptions& options_;
  Pace pace_;
  const pid_t caller_ = ::gettid();
  std::vector<PageLayout> layouts_;
  std::vector<uint64_t> first_unit_;  // of each job
  uint64_t units_ = 0;
  uint64_t total_ = 0;
  std::optional<UnitOrder> order_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> direct_;
  std::mutex mutex_;  // of the two below
  uint64_t done_ = 0;
  Status failure_;
};

}  // namespace

Status write_all_pages(const PageFile& file, const std::vector<PageJob>& jobs,
                       const WriteOptions& options, StoredArea* area) {
  PagePump pump(file, jobs, options, area);
  return pump.run();
}

}  // namespace fermata::storage
