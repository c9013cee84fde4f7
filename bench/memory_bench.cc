// What the parts of saving memory cost, each by itself; docs/performance.md says what of it a
// checkpoint pays, and when. Items are pages, bytes those of memory. Images go below $TMPDIR.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/unique_fd.h"
#include "node-agent/copy_arena.h"
#include "node-agent/engine/pagemap_scan.h"
#include "node-agent/engine/pages.h"
#include "node-agent/page_hashes.h"
#include "storage/checksum.h"
#include "storage/codec.h"
#include "storage/image_writer.h"
#include "tests/support/scratch_folder.h"

namespace fermata {
namespace {

using node_agent::CopyArena;

constexpr size_t kMemory = 64U << 20;
constexpr size_t kPages = kMemory / kPageSize;
constexpr size_t kBlock = 1U << 20;  // what has one checksum, and is compressed by itself

[[noreturn]] void give_up(const char* what) {
  perror(what);
  exit(1);
}

template <typename T>
T must(Result<T> result) {
  if (!result) {
    fprintf(stderr, "memory_bench: %s\n", result.error().message().c_str());
    exit(1);
  }
  return *std::move(result);
}

void must(const Status& status) {
  if (status) return;
  fprintf(stderr, "memory_bench: %s\n", status.message().c_str());
  exit(1);
}

uint64_t next_random(uint64_t& state) {  // xorshift64, Marsaglia 2003
  state ^= state << 13U;
  state ^= state >> 7U;
  state ^= state << 17U;
  return state;
}

/// 4 KiB pages of bytes that do not compress.
class Memory {
 public:
  Memory()
      : bytes_(
            ::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (bytes_ == MAP_FAILED) give_up("mmap");
    ::madvise(bytes_, kMemory, MADV_NOHUGEPAGE);
    uint64_t state = 0x9e3779b97f4a7c15U;
    for (uint64_t& word : words()) word = next_random(state);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(bytes_, kMemory); }

  std::span<uint64_t> words() const {
    return {static_cast<uint64_t*>(bytes_), kMemory / sizeof(uint64_t)};
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(words()); }
  uint64_t start() const { return reinterpret_cast<uint64_t>(bytes_); }
  uint64_t end() const { return start() + kMemory; }
  void write_every_page() const {
    for (size_t page = 0; page < kPages; ++page) words()[page * kPageSize / sizeof(uint64_t)] += 1;
  }

 private:
  void* bytes_;
};

/// A process that has such memory, and sleeps.
class Sleeper {
 public:
  Sleeper() : pid_(::fork()) {
    if (pid_ < 0) give_up("fork");
    if (pid_ == 0) {
      memory_.write_every_page();  // its own, not its parent's
      ::raise(SIGSTOP);
      for (;;) ::pause();
    }
    int status = 0;
    ::waitpid(pid_, &status, WUNTRACED);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  /// Every nth page.
  MemoryRegion region(size_t every = 1) const {
    MemoryRegion region;
    region.id = {MemoryId::Kind::kProcess, 1};
    region.source = must(engine::ProcessMemorySource::open(pid_));
    for (uint64_t page = memory_.start(); page < memory_.end(); page += every * kPageSize) {
      append(region.extents, page, kPageSize);
    }
    return region;
  }
  pid_t pid() const { return pid_; }
  const Memory& memory() const { return memory_; }

 private:
  Memory memory_;
  pid_t pid_;
};

void count(benchmark::State& state, size_t pages) {
  const auto all = static_cast<int64_t>(pages) * state.iterations();
  state.SetItemsProcessed(all);
  state.SetBytesProcessed(all * static_cast<int64_t>(kPageSize));
}

/// What a twin costs while the job stands, but for the calls in it.
void fork_with_memory(benchmark::State& state) {
  const Memory memory;
  for ([[maybe_unused]] auto round : state) {
    const pid_t child = ::fork();
    if (child == 0) _exit(0);
    state.PauseTiming();
    ::waitpid(child, nullptr, 0);
    state.ResumeTiming();
  }
  count(state, kPages);
}
BENCHMARK(fork_with_memory)->Unit(benchmark::kMillisecond);

void find_pages(benchmark::State& state) {
  const Sleeper sleeper;
  const auto scanner = must(engine::PageScanner::open(sleeper.pid()));
  for ([[maybe_unused]] auto round : state) {
    std::vector<Extent> extents;
    must(scanner.scan(sleeper.memory().start(), sleeper.memory().end(),
                      engine::PageScanner::Backing::kAnonymous, extents));
    benchmark::DoNotOptimize(extents);
  }
  count(state, kPages);
}
BENCHMARK(find_pages)->Unit(benchmark::kMillisecond);

/// To the buffer that is kept from set to set. Every page, or every 100th.
void copy_pages(benchmark::State& state) {
  const Sleeper sleeper;
  const auto every = static_cast<size_t>(state.range(0));
  const std::vector<MemoryRegion> regions{sleeper.region(every)};
  const uint64_t bytes = regions.front().bytes_here();
  CopyArena arena;
  must(arena.warm(bytes));
  for ([[maybe_unused]] auto round : state) {
    benchmark::DoNotOptimize(must(arena.copy(regions, 2, every > 1)));
  }
  count(state, bytes / kPageSize);
}
BENCHMARK(copy_pages)
    ->ArgName("every")
    ->Arg(1)
    ->Arg(100)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void hash_pages(benchmark::State& state) {
  const Sleeper sleeper;
  const MemoryRegion region = sleeper.region();
  for ([[maybe_unused]] auto round : state) {
    benchmark::DoNotOptimize(
        must(node_agent::hash_pages(region, static_cast<unsigned>(state.range(0)))));
  }
  count(state, kPages);
}
BENCHMARK(hash_pages)
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// Memory of this process whose writes the kernel notes.
class Tracked {
 public:
  Tracked()
      : descriptor_(static_cast<int>(
            ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))),
        pagemap_(must(engine::open_pagemap(::getpid()))) {
    constexpr uint64_t kWpUnpopulated = 1U << 13U;
    constexpr uint64_t kWpAsync = 1U << 15U;
    uffdio_api api{.api = UFFD_API, .features = kWpUnpopulated | kWpAsync, .ioctls = 0};
    uffdio_register range{
        .range = {memory_.start(), kMemory}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    usable_ = descriptor_ && ::ioctl(descriptor_.get(), UFFDIO_API, &api) == 0 &&
              ::ioctl(descriptor_.get(), UFFDIO_REGISTER, &range) == 0;
  }

  bool usable() const { return usable_; }
  const Memory& memory() const { return memory_; }
  void protect() const {
    must(engine::protect_pages(pagemap_.get(), memory_.start(), memory_.end()));
  }

 private:
  Memory memory_;
  UniqueFd descriptor_;
  UniqueFd pagemap_;
  bool usable_ = false;
};

constexpr const char* kNoTracking = "no userfaultfd that notes writes (Linux 6.7)";

void protect_pages(benchmark::State& state) {
  const Tracked tracked;
  if (!tracked.usable()) {
    state.SkipWithError(kNoTracking);
    return;
  }
  for ([[maybe_unused]] auto round : state) {
    tracked.protect();
    state.PauseTiming();
    tracked.memory().write_every_page();
    state.ResumeTiming();
  }
  count(state, kPages);
}
BENCHMARK(protect_pages)->Unit(benchmark::kMillisecond);

/// What a program pays for its first write to a page after a checkpoint.
void write_to_pages(benchmark::State& state) {
  const bool protect = state.range(0) != 0;
  const Tracked tracked;
  if (!tracked.usable()) {
    state.SkipWithError(kNoTracking);
    return;
  }
  for ([[maybe_unused]] auto round : state) {
    if (protect) {
      state.PauseTiming();
      tracked.protect();
      state.ResumeTiming();
    }
    tracked.memory().write_every_page();
  }
  count(state, kPages);
}
BENCHMARK(write_to_pages)->ArgName("tracked")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

void checksum(benchmark::State& state) {
  const Memory memory;
  for ([[maybe_unused]] auto round : state) {
    for (size_t at = 0; at < kMemory; at += kBlock) {
      benchmark::DoNotOptimize(storage::checksum64(memory.bytes().subspan(at, kBlock)));
    }
  }
  count(state, kPages);
}
BENCHMARK(checksum)->Unit(benchmark::kMillisecond);

/// Of each 256 bytes so many are not zeros.
void compress(benchmark::State& state, storage::Codec codec) {
  const auto full = static_cast<size_t>(state.range(0));
  constexpr size_t kStretch = 256;
  const Memory memory;
  auto* bytes = reinterpret_cast<std::byte*>(memory.words().data());
  for (size_t at = 0; at < kMemory; at += kStretch)
    std::memset(bytes + at + full, 0, kStretch - full);
  std::vector<std::byte> out(kBlock);
  size_t stored = 0;
  for ([[maybe_unused]] auto round : state) {
    stored = 0;
    for (size_t at = 0; at < kMemory; at += kBlock) {
      const size_t size = storage::compress(codec, memory.bytes().subspan(at, kBlock), out);
      stored += size == 0 ? kBlock : size;
    }
  }
  count(state, kPages);
  state.counters["stored"] = static_cast<double>(stored) / kMemory;
}
BENCHMARK_CAPTURE(compress, lz4, storage::Codec::kLz4)
    ->ArgName("full")
    ->Arg(64)
    ->Arg(256)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(compress, zstd, storage::Codec::kZstd)
    ->ArgName("full")
    ->Arg(64)
    ->Arg(256)
    ->Unit(benchmark::kMillisecond);

/// The image of one process, until it is durable. With the priority of an image whose job waits for
/// it, or that of one whose job runs.
void write_image(benchmark::State& state) {
  const Sleeper sleeper;
  const ScratchFolder folder;
  for ([[maybe_unused]] auto round : state) {
    storage::PodImage image;
    image.header.crid = {1};
    image.header.job = {1, 0};
    image.header.time = storage::utc_now();
    image.memory.push_back(sleeper.region());
    auto writer = must(storage::ImageWriter::create(folder / "pod-0.h5.part", image));
    must(writer.write_pages({.background = state.range(0) != 0}));
    benchmark::DoNotOptimize(must(writer.finish()));
    state.PauseTiming();
    std::filesystem::remove(folder / "pod-0.h5.part");
    state.ResumeTiming();
  }
  count(state, kPages);
}
BENCHMARK(write_image)
    ->ArgName("background")
    ->Arg(0)
    ->Arg(1)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fermata

BENCHMARK_MAIN();
