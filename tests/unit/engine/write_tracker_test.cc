#include "node-agent/engine/write_tracker.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "common/extents.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/pages.h"
#include "tests/unit/engine/engine_fixture.h"

namespace fermata::engine {
namespace {

class WriteTrackerTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    const Result<TrackKind> usable = parse_track("uffd");
    ASSERT_TRUE(usable) << usable.error().message();
    start(fmt::format("exec {}", GROWING));
    wait_for_file("ready");
    std::istringstream place(contents("ready"));
    ASSERT_TRUE(place >> sparse_ >> grows_ >> file_);
    tracker_ = track();
    ASSERT_NE(tracker_, nullptr);
    ASSERT_TRUE(
        tracker_->rearm(std::vector<OwnMap>{map_at(sparse_), map_at(grows_), map_at(file_)}));
  }
  void TearDown() override {
    tracker_.reset();
    EngineTest::TearDown();
  }

  /// A tracker of the program; nullptr: see the failure.
  std::unique_ptr<WriteTracker> track() {
    const Result<std::unique_ptr<FrozenPod>> frozen =
        FrozenPod::freeze(the_pod().group(), the_pod().init_pid(), 5000);
    if (!frozen) {
      ADD_FAILURE() << frozen.error().message();
      return nullptr;
    }
    const FrozenProcess& program = (*frozen)->processes().back();
    pid_ = program.pid;
    const Result<Remote*> remote = (*frozen)->remote(program.vpid, program.threads.front().vtid);
    Result<std::unique_ptr<WriteTracker>> tracker =
        remote ? WriteTracker::start(TrackKind::kUffd, false, **remote)
               : Result<std::unique_ptr<WriteTracker>>(Failure(remote.error()));
    if (!tracker) ADD_FAILURE() << tracker.error().message();
    return tracker ? *std::move(tracker) : nullptr;
  }

  /// The map that begins there now.
  OwnMap map_at(uint64_t start) const {
    const Result<std::vector<Map>> maps = read_maps(pid_);
    for (const Map& map : maps ? *maps : std::vector<Map>{}) {
      if (map.start == start) return {map.start, map.end, map.inode == 0, true};
    }
    ADD_FAILURE() << "no map begins at " << start;
    return {};
  }

  /// Has the program do something.
  void tell(const std::string& what) {
    write(what, "");
    wait_for_file(what + ".done");
  }

  Extents taken(uint64_t start) {
    const Result<WriteTracker::Written> result = tracker_->take(map_at(start));
    EXPECT_TRUE(result && !result->all);
    return result ? result->pages : Extents{};
  }

  Extents written(uint64_t start) const {
    const Result<WriteTracker::Written> result = tracker_->written(map_at(start));
    EXPECT_TRUE(result && !result->all);
    return result ? result->pages : Extents{};
  }

  static bool has(const Extents& pages, uint64_t address) {
    return !part_of(pages, address, address + kPageSize).empty();
  }

  uint64_t sparse_ = 0;
  uint64_t grows_ = 0;
  uint64_t file_ = 0;
  pid_t pid_ = 0;
  std::unique_ptr<WriteTracker> tracker_;
};

TEST_F(WriteTrackerTest, Map_ThatGrewInItsPlace_IsOursAndWhatIsNewInItWasWritten) {
  tell("cut");
  const OwnMap grown = map_at(grows_);
  ASSERT_EQ(grown.end - grown.start, 16 * kPageSize);
  EXPECT_TRUE(tracker_->is_ours(grown.start, grown.end));
  EXPECT_TRUE(tracker_->notices_loss()) << "on the machine of the tests";
  Extents pages = written(grows_);
  EXPECT_FALSE(has(pages, grows_)) << "it is as it was";
  EXPECT_TRUE(has(pages, grows_ + 4 * kPageSize)) << "what had been there is lost";
  tell("write");
  pages = written(grows_);
  EXPECT_FALSE(has(pages, grows_));
  EXPECT_TRUE(has(pages, grows_ + kPageSize));
  EXPECT_TRUE(has(pages, grows_ + 5 * kPageSize));
  const std::unique_ptr<WriteTracker> other = track();
  ASSERT_NE(other, nullptr);
  EXPECT_FALSE(other->is_ours(grown.start, grown.end)) << "another userfaultfd has it";
}

TEST_F(WriteTrackerTest, Take_TellsOfAWriteOnce_AndOfTheNextAnew) {
  const Extent second{grows_ + kPageSize, kPageSize};
  EXPECT_TRUE(taken(grows_).empty());
  tell("write");
  EXPECT_EQ(taken(grows_), (Extents{second, {grows_ + 5 * kPageSize, kPageSize}}));
  EXPECT_TRUE(taken(grows_).empty());
  EXPECT_TRUE(written(grows_).empty());
  tell("again");
  EXPECT_EQ(written(grows_), Extents{second});
  EXPECT_EQ(taken(grows_), Extents{second});
  EXPECT_TRUE(written(grows_).empty());
}

TEST_F(WriteTrackerTest, SparseMemory_GetsNoPageTables_AndNoPages) {
  std::ifstream status(fmt::format("/proc/{}/status", pid_));
  uint64_t kilobytes = 0;
  for (std::string word; status >> word;) {
    if (word == "VmPTE:") status >> kilobytes;
  }
  EXPECT_GT(kilobytes, 0U);
  EXPECT_LT(kilobytes, 2048U) << "131000 for all of it";
  const Result<PageScanner> scanner = PageScanner::open(pid_);
  ASSERT_TRUE(scanner);
  const OwnMap map = map_at(sparse_);
  std::vector<Extent> pages;
  ASSERT_TRUE(scanner->scan(map.start, map.end, PageScanner::Backing::kAnonymous, pages));
  EXPECT_EQ(total_length(pages), 3 * kPageSize) << "marks in page tables are no pages";
}

TEST_F(WriteTrackerTest, PageOfAFile_ThatWasGivenBack_IsTheFilesAgain) {
  const Result<PageScanner> scanner = PageScanner::open(pid_);
  ASSERT_TRUE(scanner);
  const OwnMap map = map_at(file_);
  std::vector<Extent> before;
  ASSERT_TRUE(scanner->scan(map.start, map.end, PageScanner::Backing::kFile, before));
  EXPECT_EQ(total_length(before), 2 * kPageSize);
  tell("file");
  std::vector<Extent> after;
  ASSERT_TRUE(scanner->scan(map.start, map.end, PageScanner::Backing::kFile, after));
  EXPECT_EQ(total_length(after), kPageSize);
  EXPECT_FALSE(has(after, file_));
}

}  // namespace
}  // namespace fermata::engine
