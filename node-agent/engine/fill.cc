#include "node-agent/engine/fill.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "node-agent/engine/fill_units.h"

namespace fermata::engine {
namespace {

// What is read and written at a time: a whole number of an image's blocks, counted as an image
// counts, so that no two threads need the same block.
constexpr uint64_t kUnit = 2U << 20;
// More than processors: some wait for the disk while others fill.
constexpr unsigned kThreads = 4;
constexpr size_t kMostPieces = 1024;  // IOV_MAX, of process_vm_writev(2)

class Filling {
 public:
  Filling(pid_t pid, const MemoryRegion& region) : pid_(pid), units_(region, kUnit) {}

  Status run() {
    const size_t threads = std::min<size_t>(kThreads, units_.count());
    std::vector<std::thread> helpers;
    for (size_t i = 1; i < threads; ++i) {
      try {
        helpers.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        break;  // fewer threads do it as well
      }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

 private:
  void work() {
    const FillBuffer buffer = make_fill_buffer(kUnit);
    Status status = buffer ? Status::ok() : Status(Code::kInternal, "no memory for pages");
    while (status) {
      const size_t unit = next_++;
      if (unit >= units_.count()) return;
      status = fill(unit, buffer.get());
    }
    next_ = units_.count();
    const std::lock_guard lock(mutex_);
    if (failure_) failure_ = std::move(status);
  }

  Status fill(size_t unit, std::byte* buffer) const {
    FERMATA_ASSIGN_STATUS(const size_t filled, units_.read(unit, buffer));
    std::vector<iovec> there;
    for (const FillUnits::Piece& piece : units_.pieces(unit)) {
      there.push_back({reinterpret_cast<void*>(piece.address), piece.length});
    }
    std::span<iovec> left = there;
    for (size_t done = 0; done < filled;) {
      const iovec here{buffer + done, filled - done};
      const std::span<iovec> now = left.first(std::min(left.size(), kMostPieces));
      const ssize_t n = ::process_vm_writev(pid_, &here, 1, now.data(), now.size(), 0);
      if (n <= 0) {
        return errno_status(n == 0 ? EIO : errno,
                            fmt::format("filling memory at {} of process {}",
                                        fmt::ptr(left.front().iov_base), pid_));
      }
      done += static_cast<size_t>(n);
      left = behind(left, static_cast<size_t>(n));
    }
    return Status::ok();
  }

  /// What is left of `pieces` after their first `bytes`.
  static std::span<iovec> behind(std::span<iovec> pieces, size_t bytes) {
    while (!pieces.empty() && bytes >= pieces.front().iov_len) {
      bytes -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (bytes > 0) {
      pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + bytes;
      pieces.front().iov_len -= bytes;
    }
    return pieces;
  }

  const pid_t pid_;
  const FillUnits units_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  Status failure_;  ///< the first; guarded by mutex_
};

}  // namespace

Status fill_memory(pid_t pid, const MemoryRegion& region) { return Filling(pid, region).run(); }

}  // namespace fermata::engine
