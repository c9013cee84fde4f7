// Maps of many kinds: what the iterator and the learned names tell is what smaps tells.
#include "node-agent/engine/map_flags.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "common/memory_image.h"
#include "common/unique_fd.h"

namespace fermata::engine {
namespace {

/// A child that does something to its memory, and then nothing until it is killed.
class Child {
 public:
  explicit Child(const std::function<void()>& prepare) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    const UniqueFd ours(ends[0]);
    UniqueFd its(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      prepare();
      (void)!::write(its.get(), "", 1);
      while (true) ::pause();
    }
    its.reset();
    char done = 0;
    ready_ = ::read(ours.get(), &done, 1) == 1;
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  bool ready() const { return ready_; }

 private:
  pid_t pid_ = -1;
  bool ready_ = false;
};

std::byte* map_pages(int kind, int protection = PROT_READ | PROT_WRITE, int fd = -1) {
  constexpr size_t kLength = 16 * kPageSize;
  void* at = ::mmap(nullptr, kLength, protection, kind | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

void advise(int advice) { ::madvise(map_pages(MAP_PRIVATE), 4 * kPageSize, advice); }

void make_all_kinds() {
  for (const int kind :
       {MAP_PRIVATE, MAP_SHARED, MAP_PRIVATE | MAP_NORESERVE, MAP_PRIVATE | MAP_GROWSDOWN}) {
    for (const int protection : {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}) {
      map_pages(kind, protection);
    }
  }
  for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_WIPEONFORK,
                           MADV_DONTDUMP, MADV_RANDOM, MADV_SEQUENTIAL, MADV_MERGEABLE}) {
    advise(advice);
  }
  std::byte* both = map_pages(MAP_PRIVATE);
  ::madvise(both, 8 * kPageSize, MADV_DONTFORK);
  ::madvise(both + 4 * kPageSize, 8 * kPageSize, MADV_DONTDUMP);
  ::mlock(map_pages(MAP_PRIVATE), 4 * kPageSize);
  const int program = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  map_pages(MAP_PRIVATE, PROT_READ, program);
  map_pages(MAP_SHARED, PROT_READ, program);
  if (const int key = ::pkey_alloc(0, 0); key > 0) {
    ::pkey_mprotect(map_pages(MAP_PRIVATE), 4 * kPageSize, PROT_READ, key);
  }
}

void expect_as_smaps(pid_t pid) {
  const Result<std::vector<Map>> expected = read_smaps(pid);
  const Result<std::vector<Map>> found = MapFlags::of_this_kernel().read(pid);
  ASSERT_TRUE(expected && found);
  ASSERT_EQ(found->size(), expected->size());
  for (size_t i = 0; i < expected->size(); ++i) {
    const Map& map = expected->at(i);
    if (map.name == "[vsyscall]") continue;
    EXPECT_EQ(found->at(i).start, map.start);
    EXPECT_EQ(found->at(i).end, map.end);
    EXPECT_EQ(found->at(i).name, map.name);
    EXPECT_EQ(found->at(i).flags, map.flags) << i << ": " << map.name;
    EXPECT_EQ(found->at(i).protection_key, map.protection_key);
  }
}

bool has_iterator() { return static_cast<bool>(VmaFlagReader::load()); }

TEST(MapFlags, OfAllKindsOfMaps_AreThoseOfSmaps) {
  const Child child(make_all_kinds);
  ASSERT_TRUE(child.ready());
  expect_as_smaps(child.pid());
  expect_as_smaps(child.pid());
}

TEST(MapFlags, OfAnOrdinaryProgram_NeedNoSmaps) {
  const Child child([] {
    for (const int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_DONTDUMP}) {
      advise(advice);
    }
  });
  ASSERT_TRUE(child.ready());
  expect_as_smaps(child.pid());  // learns what programs have of files and the kernel
  const uint64_t before = MapFlags::of_this_kernel().slow_reads();
  expect_as_smaps(child.pid());
  EXPECT_EQ(MapFlags::of_this_kernel().slow_reads() - before, has_iterator() ? 0U : 1U);
}

TEST(MapFlags, OfThousandsOfMaps_AreThoseOfSmaps) {
  // More than the iterator gives at once (1365).
  const Child child([] {
    for (int i = 0; i < 3000; ++i) {
      map_pages(MAP_PRIVATE, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE);
    }
  });
  ASSERT_TRUE(child.ready());
  expect_as_smaps(child.pid());
  const uint64_t before = MapFlags::of_this_kernel().slow_reads();
  expect_as_smaps(child.pid());
  EXPECT_EQ(MapFlags::of_this_kernel().slow_reads() - before, has_iterator() ? 0U : 1U);
}

TEST(MapFlags, AreOfTheMapsThereAreNow) {
  std::byte* page = map_pages(MAP_PRIVATE);
  const auto flags_of_it = [&] {
    const auto maps = MapFlags::of_this_kernel().read(::getpid());
    for (const Map& map : maps ? *maps : std::vector<Map>()) {
      const auto at = reinterpret_cast<uint64_t>(page);
      if (map.start <= at && at < map.end) return map.flags;
    }
    return std::vector<std::string>();
  };
  EXPECT_THAT(flags_of_it(), testing::Not(testing::Contains("dc")));
  ASSERT_EQ(::madvise(page, kPageSize, MADV_DONTFORK), 0);
  EXPECT_THAT(flags_of_it(), testing::Contains("dc"));
  ASSERT_EQ(::madvise(page, kPageSize, MADV_DOFORK), 0);
  EXPECT_THAT(flags_of_it(), testing::Not(testing::Contains("dc")));
}

TEST(FlagNames, OfBitsNotSeenYet_AreNotGuessed) {
  FlagNames names;
  Map seen;
  seen.flags = {"rd", "wr", "nh"};
  names.learn(0b1000'0011, seen);
  Map map;
  EXPECT_TRUE(names.name(0b1000'0001, map));
  EXPECT_THAT(map.flags, testing::ElementsAre("rd", "nh"));
  EXPECT_FALSE(names.name(0b1000'0101, map));
}

TEST(FlagNames, OfMapsWithAProtectionKey_TeachNothing) {
  FlagNames names;
  Map keyed;
  keyed.flags = {"rd", "wr"};
  names.learn(0b0010'0011, keyed);
  Map map;
  EXPECT_FALSE(names.name(0b0000'0001, map));
}

}  // namespace
}  // namespace fermata::engine
