#include "node-agent/read_ahead.h"

#include <sys/mman.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "node-agent/engine/fill_units.h"
#include "node-agent/memory_room.h"

namespace fermata::node_agent {
namespace {

constexpr uint64_t kUnit = 2U << 20;
constexpr unsigned kThreads = 2;
constexpr uint64_t kSmall = 16U << 20;      // read while a process is built
constexpr uint64_t kShareOfAvailable = 16;  // of memory that is there, one part in so many

/// Memory for units.
class Places {
 public:
  static std::unique_ptr<Places> make(uint64_t bytes) {
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    // Reads are under way while we fork.
    ::madvise(memory, bytes, MADV_DONTFORK);
    return std::make_unique<Places>(static_cast<std::byte*>(memory), bytes);
  }
  Places(std::byte* memory, uint64_t bytes) : memory_(memory), bytes_(bytes) {}
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;
  ~Places() { ::munmap(memory_, bytes_); }

  std::byte* at(size_t unit) const { return memory_ + unit * kUnit; }

 private:
  std::byte* memory_;
  uint64_t bytes_;
};

class ReadAhead final : public MemorySource {
 public:
  ReadAhead(const MemoryRegion& region, std::unique_ptr<Places> places, uint64_t most)
      : source_(region.source),
        places_(std::move(places)),
        units_(region, kUnit),
        states_(std::min<size_t>(most / kUnit, units_.count())) {
    for (size_t unit = 0; unit < states_.size(); ++unit) {
      uint64_t offset = 0;
      for (const engine::FillUnits::Piece& piece : units_.pieces(unit)) {
        pieces_[piece.address] = {unit, offset, piece.length};
        offset += piece.length;
      }
    }
    for (unsigned i = 0; i < kThreads; ++i) {
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        break;  // fewer do it as well, and none is as without this
      }
    }
  }
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;
  ~ReadAhead() override {
    {
      const std::lock_guard lock(mutex_);
      caught_up_ = true;
    }
    for (std::thread& thread : threads_) thread.join();
  }

  Status read(uint64_t address, std::span<std::byte> out) const override {
    const std::optional<Piece> piece = piece_at(address, out.size());
    if (!piece || !have(piece->unit)) return source_->read(address, out);
    std::memcpy(out.data(), places_->at(piece->unit) + piece->offset, out.size());
    return Status::ok();
  }

 private:
  struct Piece {
    size_t unit = 0;
    uint64_t offset = 0;  ///< in the unit
    uint64_t length = 0;
  };
  enum class State { kNone, kUnderWay, kRead };

  std::optional<Piece> piece_at(uint64_t address, uint64_t length) const {
    auto after = pieces_.upper_bound(address);
    if (after == pieces_.begin()) return std::nullopt;
    const auto& [start, piece] = *--after;
    const uint64_t skip = address - start;
    if (skip >= piece.length || length > piece.length - skip) return std::nullopt;
    return Piece{piece.unit, piece.offset + skip, length};
  }

  /// Whether a unit is read, once it is if it is on its way. One that is not begun never will be.
  bool have(size_t unit) const {
    std::unique_lock lock(mutex_);
    if (unit >= next_) caught_up_ = true;
    done_.wait(lock, [&] { return states_[unit] != State::kUnderWay; });
    return states_[unit] == State::kRead;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (!caught_up_ && next_ < states_.size()) {
      const size_t unit = next_++;
      states_[unit] = State::kUnderWay;
      lock.unlock();
      const bool read = units_.read(unit, places_->at(unit)).has_value();
      lock.lock();
      states_[unit] = read ? State::kRead : State::kNone;
      done_.notify_all();
    }
  }

  const std::shared_ptr<const MemorySource> source_;
  const std::unique_ptr<Places> places_;
  const engine::FillUnits units_;
  std::map<uint64_t, Piece> pieces_;  ///< by address; of all units that may be read ahead
  mutable std::mutex mutex_;          ///< of all below but the threads
  mutable std::condition_variable done_;
  mutable std::vector<State> states_;
  mutable size_t next_ = 0;
  mutable bool caught_up_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

void begin_to_read_ahead(std::vector<MemoryRegion>& memory, uint64_t most) {
  const auto largest = std::max_element(
      memory.begin(), memory.end(),
      [](const auto& a, const auto& b) { return a.bytes_here() < b.bytes_here(); });
  if (largest == memory.end() || largest->bytes_here() < kSmall || !largest->source) return;
  if (most == 0 || available_memory() / kShareOfAvailable < most) return;
  std::unique_ptr<Places> places = Places::make(most);
  if (places == nullptr) return;
  largest->source = std::make_shared<ReadAhead>(*largest, std::move(places), most);
}

}  // namespace fermata::node_agent
