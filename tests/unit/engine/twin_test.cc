#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "common/extents.h"
#include "common/shared_buffer.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "tests/unit/engine/engine_fixture.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kLeftOut = 65536;  // words of counting.c that no child is given
constexpr uint64_t kFreed = 4 << 20;

class TwinTest : public EngineTest {
 protected:
  void start_counting() {
    start(fmt::format("exec {}", COUNTING));
    wait_for_file("ready");
    std::istringstream place(contents("ready"));
    ASSERT_TRUE(place >> address_ >> words_);
  }

  Result<std::unique_ptr<FrozenPod>> freeze() {
    return FrozenPod::freeze(the_pod().group(), the_pod().init_pid(), 5000);
  }

  /// The twins of the running job, the job running on. `expected`: they are begun by the capture.
  Result<KeptPod> hold_twins(bool expected = false) {
    FERMATA_ASSIGN(std::unique_ptr<FrozenPod> frozen, freeze());
    if (expected) frozen->expect_twins();
    KeptPod kept;
    FERMATA_ASSIGN(kept.objects, frozen->capture());
    FERMATA_ASSIGN(TwinMemory twins, frozen->twins(kept.objects));
    for (const MemoryRegion& region : twins.rest) rest_bytes_ += region.bytes_here();
    FERMATA_TRY_RESULT(frozen->resume());
    kept.memory = std::move(twins.regions);
    EXPECT_EQ(twins.unfound.empty(), !expected);
    FERMATA_TRY_RESULT(find_in_twins(twins.unfound, kept.memory));
    return kept;
  }

  /// Of processes.
  static std::map<uint64_t, Extents> extents_of(const std::vector<MemoryRegion>& memory) {
    std::map<uint64_t, Extents> extents;
    for (const MemoryRegion& region : memory) {
      if (region.id.kind == MemoryId::Kind::kProcess) extents[region.id.id] = region.extents;
    }
    return extents;
  }

  /// Sooner than twins that nobody holds end by themselves, which is five seconds after `since`.
  void expect_only(size_t count, std::chrono::steady_clock::time_point since) {
    constexpr std::chrono::seconds kSooner(4);
    while (processes() != count && std::chrono::steady_clock::now() < since + kSooner) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(processes(), count);
  }

  size_t processes() {
    const Result<std::vector<pid_t>> pids = group_processes(the_pod().group());
    return pids ? pids->size() : 0;
  }

  /// The words of the array that twins have.
  std::vector<uint64_t> words_of(const std::vector<MemoryRegion>& memory) const {
    std::vector<uint64_t> words;
    for (const MemoryRegion& region : memory) {
      for (const Extent& extent : region.extents) {
        const uint64_t start = std::max(extent.address, address_);
        const uint64_t end =
            std::min(extent.address + extent.length, address_ + (words_ - kLeftOut) * 8);
        if (start >= end || start != address_ + words.size() * 8) continue;
        std::vector<uint64_t> part((end - start) / 8);
        if (!region.source->read(start, std::as_writable_bytes(std::span(part)))) return words;
        words.insert(words.end(), part.begin(), part.end());
      }
    }
    return words;
  }

  /// The same, read as a writer of images does: by the twins themselves, into memory that is
  /// shared.
  std::vector<uint64_t> words_copied(const std::vector<MemoryRegion>& memory,
                                     const SharedBuffer& buffer) const {
    std::vector<uint64_t> words;
    for (const MemoryRegion& region : memory) {
      for (const Extent& extent : region.extents) {
        const uint64_t start = std::max(extent.address, address_);
        const uint64_t end =
            std::min(extent.address + extent.length, address_ + (words_ - kLeftOut) * 8);
        for (uint64_t at = start; at < end;) {
          const auto part =
              buffer.bytes().first(std::min<uint64_t>(buffer.bytes().size(), end - at));
          std::memset(part.data(), 0xff, part.size());
          if (!region.source->read(at, part)) return words;
          const auto* read = reinterpret_cast<const uint64_t*>(part.data());
          words.insert(words.end(), read, read + part.size() / 8);
          at += part.size();
        }
      }
    }
    return words;
  }

  std::vector<pid_t> pids() {
    return group_processes(the_pod().group()).value_or(std::vector<pid_t>{});
  }

  std::vector<pid_t> twins_beside(const std::vector<pid_t>& others) {
    std::vector<pid_t> twins = pids();
    std::erase_if(twins, [&](pid_t pid) {
      return std::find(others.begin(), others.end(), pid) != others.end();
    });
    return twins;
  }

  /// Bytes of anonymous memory that a process has in RAM.
  static uint64_t resident(pid_t pid) {
    std::ifstream status(fmt::format("/proc/{}/status", pid));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("RssAnon:")) return std::stoull(line.substr(8)) * 1024;
    }
    return 0;
  }

  struct Read {
    KeptPod kept;
    std::vector<uint64_t> words;  ///< of its twins, through /proc
    SharedBuffer buffer;
  };
  Result<Read> hold_and_read(size_t buffer_size) {
    FERMATA_ASSIGN(KeptPod kept, hold_twins());
    FERMATA_ASSIGN(SharedBuffer buffer, SharedBuffer::make("test", buffer_size));
    std::vector<uint64_t> words = words_of(kept.memory);
    return Read{std::move(kept), std::move(words), std::move(buffer)};
  }

  uint64_t address_ = 0;
  uint64_t words_ = 0;
  uint64_t rest_bytes_ = 0;
};

TEST_F(TwinTest, Twin_HoldsTheInstant_WhileTheJobWritesOn) {
  start_counting();
  const size_t before = processes();
  for (int round = 0; round < 6; ++round) {
    const Result<KeptPod> kept = hold_twins(/*expected=*/round % 2 == 1);
    ASSERT_TRUE(kept) << kept.error().message();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::vector<uint64_t> words = words_of(kept->memory);
    ASSERT_EQ(words.size(), words_ - kLeftOut) << "all but what is not given to children";
    uint64_t changes = 0;
    for (size_t i = 1; i < words.size(); ++i) {
      if (words[i] == words[i - 1]) continue;
      ++changes;
      ASSERT_EQ(words[i] + 1, words[i - 1]) << i;
    }
    EXPECT_LE(changes, 1U);
  }
  EXPECT_GE(rest_bytes_, 5 * kLeftOut * sizeof(uint64_t)) << "that part is to be copied";
  // The last reader gone, the twins are: PID 1 may still have to wait for them.
  expect_only(before, std::chrono::steady_clock::now());
  write("go", "");
  EXPECT_EQ(wait_end(), 0) << "the program has seen no child";
}

TEST_F(TwinTest, Pages_AreFoundInTwins_AsInTheStoppedProcesses) {
  start_counting();
  {
    Result<std::unique_ptr<FrozenPod>> frozen = freeze();
    ASSERT_TRUE(frozen) << frozen.error().message();
    ASSERT_TRUE((*frozen)->capture());
    const std::map<uint64_t, Extents> here = extents_of((*frozen)->memory());

    (*frozen)->expect_twins();
    const Result<image::PodObjects> objects = (*frozen)->capture();
    ASSERT_TRUE(objects) << objects.error().message();
    EXPECT_NE(extents_of((*frozen)->memory()), here) << "left to the twins";
    Result<TwinMemory> twins = (*frozen)->twins(*objects);
    ASSERT_TRUE(twins) << twins.error().message();
    ASSERT_EQ((*frozen)->resume().code(), Code::kOk);
    ASSERT_EQ(find_in_twins(twins->unfound, twins->regions).code(), Code::kOk);
    EXPECT_EQ(extents_of(twins->regions), here);

    // Of one that is ended nothing is taken for found.
    for (const TwinProcess& twin : twins->twins) ::kill(twin.pid, SIGKILL);
    EXPECT_EQ(find_in_twins(twins->unfound, twins->regions).code(), Code::kGone);
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0);
}

TEST_F(TwinTest, TwinsThatWereExpected_AreGone_WhenNobodyAsksForThem) {
  start_counting();
  const size_t before = processes();
  for (int round = 0; round < 4; ++round) {
    const auto since = std::chrono::steady_clock::now();
    Result<std::unique_ptr<FrozenPod>> frozen = freeze();
    ASSERT_TRUE(frozen) << frozen.error().message();
    ASSERT_TRUE((*frozen)->capture());
    const std::map<uint64_t, Extents> here = extents_of((*frozen)->memory());
    (*frozen)->expect_twins();
    ASSERT_TRUE((*frozen)->capture());
    if (round % 2 == 0) {
      ASSERT_EQ((*frozen)->find_pages_here().code(), Code::kOk);
      EXPECT_EQ(extents_of((*frozen)->memory()), here);
    }
    ASSERT_EQ((*frozen)->resume().code(), Code::kOk);
    expect_only(before, since);
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0) << "the program has seen no child";
}

// Files are looked at while twins are made.
TEST_F(TwinTest, TwinsThatWereExpected_AreGone_WhereSomethingCannotBeHeld) {
  start(fmt::format(": > one; ln one other; exec 5< one; rm one; exec {}", COUNTING));
  wait_for_file("ready");
  const size_t before = processes();
  for (int round = 0; round < 3; ++round) {
    Result<std::unique_ptr<FrozenPod>> frozen = freeze();
    ASSERT_TRUE(frozen) << frozen.error().message();
    (*frozen)->expect_twins();
    const Result<image::PodObjects> objects = (*frozen)->capture();
    ASSERT_FALSE(objects);
    EXPECT_EQ(objects.error().code(), Code::kCannotHold) << objects.error().message();
    for (int i = 0; i < 2000 && processes() == before; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_GT(processes(), before) << "they were begun";
    const auto since = std::chrono::steady_clock::now();
    frozen->reset();
    expect_only(before, since);
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0) << "the program runs on";
}

// A call uses the area that the making of a twin uses, and changes nothing that a twin still reads.
TEST_F(TwinTest, CallsInAProcess_WaitForItsTwin_AndLeaveItAlone) {
  start_counting();
  for (int round = 0; round < 20; ++round) {
    Result<std::unique_ptr<FrozenPod>> frozen = freeze();
    ASSERT_TRUE(frozen) << frozen.error().message();
    (*frozen)->expect_twins();
    const Result<image::PodObjects> objects = (*frozen)->capture();
    ASSERT_TRUE(objects) << objects.error().message();
    for (const FrozenProcess& process : (*frozen)->processes()) {
      for (const FrozenThread& thread : process.threads) {
        const Result<Remote*> remote = (*frozen)->remote(process.vpid, thread.vtid);
        ASSERT_TRUE(remote) << remote.error().message();
        constexpr uint64_t kAbsurd = ~0ULL;
        std::array<RemoteCall, 8> calls;
        calls.fill({SYS_getpid, {kAbsurd, kAbsurd, kAbsurd, kAbsurd, kAbsurd, kAbsurd}, 0});
        ASSERT_EQ((*remote)->run(calls).code(), Code::kOk);
        for (const RemoteCall& call : calls) EXPECT_EQ(call.result, process.vpid);
      }
    }
    const Result<TwinMemory> twins = (*frozen)->twins(*objects);
    ASSERT_TRUE(twins) << twins.error().message();
    ASSERT_EQ((*frozen)->resume().code(), Code::kOk);
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0) << "the program has seen no child";
}

TEST_F(TwinTest, Twin_CopiesItsMemoryItself_AndIsReadWithoutWhenItIsStopped) {
  start_counting();
  {
    const std::vector<pid_t> before = pids();
    const Result<Read> held = hold_and_read(256 << 10);
    ASSERT_TRUE(held) << held.error().message();
    const auto& [kept, words, buffer] = *held;
    ASSERT_EQ(words.size(), words_ - kLeftOut);
    for (const MemoryRegion& region : kept.memory) {
      if (region.source) region.source->prepare_reads_into(buffer);
    }
    EXPECT_TRUE(words_copied(kept.memory, buffer) == words) << "by the twin";

    for (const pid_t pid : pids()) {
      if (std::find(before.begin(), before.end(), pid) == before.end()) ::kill(pid, SIGSTOP);
    }
    EXPECT_TRUE(words_copied(kept.memory, buffer) == words) << "through /proc";
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0);
}

TEST_F(TwinTest, Twin_GivesBack_WhatWasReadOnce) {
  start_counting();
  {
    const std::vector<pid_t> before = pids();
    const Result<Read> held = hold_and_read(1 << 20);
    ASSERT_TRUE(held) << held.error().message();
    const auto& [kept, words, buffer] = *held;
    ASSERT_EQ(words.size(), words_ - kLeftOut);
    uint64_t twins_had = 0;
    for (const pid_t pid : twins_beside(before)) twins_had += resident(pid);
    EXPECT_GE(twins_had, (words_ - kLeftOut) * 8);
    for (const MemoryRegion& region : kept.memory) {
      if (!region.source) continue;
      // Of the counting process only its array is needed, of others all.
      const Extents array{{address_, (words_ - kLeftOut) * 8}};
      const Extents some = common_part(region.extents, array);
      region.source->read_once(some.empty() ? region.extents : some);
      region.source->prepare_reads_into(buffer);
      // It has a page of its own for each that the program has written, and that is all of them.
      if (some.empty()) continue;
      for (int i = 0; i < 1000 && region.source->frees(address_, kFreed) < kFreed; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      EXPECT_EQ(region.source->frees(address_, kFreed), kFreed);
    }
    EXPECT_TRUE(words_copied(kept.memory, buffer) == words);
    for (const MemoryRegion& region : kept.memory) {
      if (!region.source) continue;
      EXPECT_EQ(region.source->frees(address_, kFreed), 0U);
    }
    uint64_t twins_have = 0;
    for (const pid_t pid : twins_beside(before)) twins_have += resident(pid);
    EXPECT_LE(twins_have, twins_had / 4) << "with what was not read";
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0) << "the program has all of its memory";
}

TEST_F(TwinTest, PipeEnds_WhileATwinLives) {
  start(
      "(: > ready; while ! [ -e close ]; do sleep 0.02; done) | cat; : > eof; "
      "while ! [ -e go ]; do sleep 0.02; done");
  wait_for_file("ready");
  const Result<KeptPod> kept = hold_twins();
  ASSERT_TRUE(kept) << kept.error().message();
  write("close", "");
  wait_for_file("eof");  // the twins hold no end of the pipe
  write("go", "");
}

// A thread of PID 1 stays until the twins are gone, which stay until we let them: it was waited for
// ten seconds with the job's end untold, then no more, and PID 1 stayed a zombie for good.
TEST_F(TwinTest, ThePodEnds_WhenItIsKilledWhileTwinsAreMade) {
  for (const bool expected : {false, true}) {
    start_counting();
    {
      auto frozen = freeze();
      ASSERT_TRUE(frozen) << frozen.error().message();
      if (expected) (*frozen)->expect_twins();
      const Result<image::PodObjects> objects = (*frozen)->capture();
      ASSERT_TRUE(objects) << objects.error().message();
      if (expected) {
        // They may be under way.
        ASSERT_EQ(::kill(the_pod().init_pid(), SIGKILL), 0);
      }
      const Result<TwinMemory> twins = (*frozen)->twins(*objects);
      ASSERT_TRUE(twins || expected) << twins.error().message();
      if (!expected) {
        ASSERT_EQ(::kill(the_pod().init_pid(), SIGKILL), 0);
      }
      const auto killed = std::chrono::steady_clock::now();
      EXPECT_TRUE((*frozen)->resume());
      EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(5));
    }
    EXPECT_EQ(wait_end(), 128 + SIGKILL);
    ASSERT_TRUE(the_pod().destroy());
    std::filesystem::remove(folder() / "ready");
  }
}

}  // namespace
}  // namespace fermata::engine
