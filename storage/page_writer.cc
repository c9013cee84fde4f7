#include "storage/page_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "storage/format.h"
#include "storage/page_layout.h"

namespace fermata::storage {
namespace {

// What a thread reads, sums and writes at a time: whole blocks.
constexpr uint64_t kUnit = 2 * kBlockSize;

struct FreeBuffer {
  void operator()(std::byte* buffer) const { std::free(buffer); }
};
using Buffer = std::unique_ptr<std::byte, FreeBuffer>;

class PagePump {
 public:
  using Progress = std::function<void(uint64_t, uint64_t)>;

  PagePump(const PageFile& file, const std::vector<PageJob>& jobs, const Progress& progress)
      : file_(file), jobs_(jobs), progress_(progress), direct_(file.direct >= 0) {
    for (const PageJob& job : jobs) {
      layouts_.emplace_back(job.region->extents);
      first_unit_.push_back(units_);
      units_ += (layouts_.back().size() + kUnit - 1) / kUnit;
      total_ += layouts_.back().size();
    }
  }

  Status run(unsigned threads) {
    threads = static_cast<unsigned>(std::clamp<uint64_t>(units_, 1, std::max(threads, 1U)));
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < threads; ++i) {
      try {
        helpers.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        break;  // no more threads to be had: fewer do it as well
      }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

 private:
  void work() {
    const Buffer buffer(static_cast<std::byte*>(std::aligned_alloc(kPageSize, kUnit)));
    if (buffer == nullptr) return fail({Code::kInternal, "no memory for a page buffer"});
    while (!stop_) {
      const uint64_t unit = next_++;
      if (unit >= units_) return;
      const auto after = std::upper_bound(first_unit_.begin(), first_unit_.end(), unit);
      const auto job = static_cast<size_t>(after - first_unit_.begin()) - 1;
      const uint64_t position = (unit - first_unit_[job]) * kUnit;
      const uint64_t length = std::min(kUnit, layouts_[job].size() - position);
      if (Status status = move(job, position, std::span(buffer.get(), length)); !status) {
        return fail(std::move(status));
      }
      report(length);
    }
  }

  Status move(size_t number, uint64_t position, std::span<std::byte> bytes) {
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
    for (uint64_t at = 0; at < bytes.size(); at += kBlockSize) {
      const auto block = bytes.subspan(at, std::min<uint64_t>(kBlockSize, bytes.size() - at));
      (*job.checksums)[(position + at) / kBlockSize] = checksum64(block);
    }
    return write(job.offset + position, bytes);
  }

  // O_DIRECT as long as it is taken: EINVAL tells of an alignment that this file system wants and a
  // page is not (open(2), NOTES), and a short write may end anywhere.
  Status write(uint64_t offset, std::span<const std::byte> bytes) {
    if (direct_) {
      const ssize_t n =
          ::pwrite(file_.direct, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n >= 0) {
        const auto done = static_cast<size_t>(n);
        return write_exactly(file_.fd, offset + done, bytes.subspan(done), file_.path);
      }
      if (errno != EINVAL && errno != EINTR) {
        return errno_status(Code::kStorage, errno, "cannot write " + file_.path);
      }
      if (errno == EINVAL) direct_ = false;
    }
    return write_exactly(file_.fd, offset, bytes, file_.path);
  }

  void report(uint64_t bytes) {
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    progress_(done_, total_);
  }

  void fail(Status status) {
    stop_ = true;
    const std::lock_guard lock(mutex_);
    if (failure_) failure_ = std::move(status);
  }

  const PageFile& file_;
  const std::vector<PageJob>& jobs_;
  const Progress& progress_;
  std::vector<PageLayout> layouts_;
  std::vector<uint64_t> first_unit_;  // of each job
  uint64_t units_ = 0;
  uint64_t total_ = 0;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> direct_;
  std::mutex mutex_;  // of the three below
  uint64_t done_ = 0;
  Status failure_;
};

}  // namespace

Status write_all_pages(const PageFile& file, const std::vector<PageJob>& jobs, unsigned threads,
                       const std::function<void(uint64_t done, uint64_t total)>& progress) {
  PagePump pump(file, jobs, progress);
  return pump.run(threads);
}

}  // namespace fermata::storage
