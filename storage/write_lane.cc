#include "storage/write_lane.h"

#include <liburing.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "storage/format.h"

namespace fermata::storage {
namespace {

Status failed(int error, const PageFile& file) {
  return errno_status(Code::kStorage, error, "cannot write " + file.path);
}

/// What O_DIRECT did not write: EINVAL tells of an alignment that this file system wants and a page
/// is not (open(2), NOTES), and a short write may end anywhere.
Status write_rest(const PageFile& file, std::atomic<bool>& direct, long result, uint64_t offset,
                  std::span<const std::byte> bytes) {
  if (result < 0 && result != -EINVAL && result != -EINTR && result != -EAGAIN) {
    return failed(static_cast<int>(-result), file);
  }
  if (result == -EINVAL) direct = false;
  const size_t done = result > 0 ? static_cast<size_t>(result) : 0;
  return write_exactly(file.fd, offset + done, bytes.subspan(done), file.path);
}

class WaitingLane final : public WriteLane {
 public:
  WaitingLane(const PageFile& file, std::span<std::byte> buffer, std::atomic<bool>& direct)
      : file_(file), buffer_(buffer), direct_(direct) {}

  Result<std::span<std::byte>> buffer() override { return buffer_; }
  Status write(uint64_t offset, size_t length) override {
    const std::span<const std::byte> bytes = buffer_.first(length);
    long result = 0;
    if (direct_) {
      result = ::pwrite(file_.direct, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (result < 0) result = -errno;
    }
    return write_rest(file_, direct_, result, offset, bytes);
  }
  Status finish() override { return Status::ok(); }

 private:
  const PageFile& file_;
  std::span<std::byte> buffer_;
  std::atomic<bool>& direct_;
};

class RingLane final : public WriteLane {
 public:
  RingLane(const PageFile& file, std::span<std::byte> memory, std::atomic<bool>& direct)
      : file_(file), direct_(direct) {
    const size_t size = memory.size() / kBuffers;
    for (size_t i = 0; i < kBuffers; ++i) slots_[i].memory = memory.subspan(i * size, size);
  }
  RingLane(const RingLane&) = delete;
  RingLane& operator=(const RingLane&) = delete;
  ~RingLane() override {
    if (!ready_) return;
    while (under_way_ > 0) {
      if (!complete_one()) break;
    }
    ::io_uring_queue_exit(&ring_);
  }

  bool start() {
    ready_ = ::io_uring_queue_init(kBuffers, &ring_, 0) == 0;
    return ready_;
  }

  Result<std::span<std::byte>> buffer() override {
    for (;;) {
      for (Slot& slot : slots_) {
        if (slot.busy) continue;
        current_ = &slot;
        return slot.memory;
      }
      FERMATA_TRY_RESULT(complete_one());
    }
  }

  Status write(uint64_t offset, size_t length) override {
    Slot& slot = *current_;
    slot.offset = offset;
    slot.bytes = slot.memory.first(length);
    if (!direct_) return write_exactly(file_.fd, offset, slot.bytes, file_.path);
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr)
      return {Code::kInternal, "no room in a ring that has a place for each buffer"};
    ::io_uring_prep_write(entry, file_.direct, slot.bytes.data(),
                          static_cast<unsigned>(slot.bytes.size()), offset);
    ::io_uring_sqe_set_data(entry, &slot);
    const int submitted = ::io_uring_submit(&ring_);
    if (submitted < 0) return failed(-submitted, file_);
    slot.busy = true;
    ++under_way_;
    return Status::ok();
  }

  Status finish() override {
    Status first;
    while (under_way_ > 0) {
      const size_t before = under_way_;
      Status one = complete_one();
      if (!one && first) first = std::move(one);
      if (under_way_ == before) break;
    }
    return first;
  }

 private:
  struct Slot {
    std::span<std::byte> memory;
    std::span<std::byte> bytes;
    uint64_t offset = 0;
    bool busy = false;
  };

  Status complete_one() {
    io_uring_cqe* entry = nullptr;
    int waited = 0;
    do {
      waited = ::io_uring_wait_cqe(&ring_, &entry);
    } while (waited == -EINTR);
    if (waited < 0) return failed(-waited, file_);
    auto& slot = *static_cast<Slot*>(::io_uring_cqe_get_data(entry));
    const long result = entry->res;
    ::io_uring_cqe_seen(&ring_, entry);
    slot.busy = false;
    --under_way_;
    return write_rest(file_, direct_, result, slot.offset, slot.bytes);
  }

  const PageFile& file_;
  std::atomic<bool>& direct_;
  io_uring ring_{};
  bool ready_ = false;
  std::array<Slot, kBuffers> slots_;
  Slot* current_ = nullptr;
  size_t under_way_ = 0;
};

}  // namespace

std::unique_ptr<WriteLane> WriteLane::open(const PageFile& file, std::span<std::byte> memory,
                                           std::atomic<bool>& direct) {
  if (direct) {
    // kernel.io_uring_disabled, seccomp and a limit of descriptors all say no here.
    auto lane = std::make_unique<RingLane>(file, memory, direct);
    if (lane->start()) return lane;
  }
  return std::make_unique<WaitingLane>(file, memory.first(memory.size() / kBuffers), direct);
}

}  // namespace fermata::storage
