// The folders of a pod's exchange, as its user may have left them.
#include "node-agent/exchange_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <fstream>
#include <thread>

#include "node-agent/pod/exchange_layout.h"
#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

/// A pod's root with both folders, in a mount namespace of the calling thread's.
class Root {
 public:
  Root() {
    EXPECT_EQ(unshare(CLONE_NEWNS), 0);
    EXPECT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    fs::create_directories(path_ / "dev/shm");
    EXPECT_EQ(mount("shm", (path_ / "dev/shm").c_str(), "tmpfs", 0, nullptr), 0);
    fs::create_directories(out());
    fs::create_directories(path_ / pod::kExchangeIn);
  }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;
  ~Root() { umount2((path_ / "dev/shm").c_str(), MNT_DETACH); }

  fs::path out() const { return path_ / pod::kExchangeOut; }
  ExchangeFiles files() const {
    return ExchangeFiles(UniqueFd(open(path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)));
  }

 private:
  ScratchFolder scratch_;
  fs::path path_ = scratch_.path();
};

void on_a_thread(const std::function<void(Root&)>& what) {
  std::thread([&] {
    Root root;
    what(root);
  }).join();
}

TEST(ExchangeFiles, ReadsWhatPodinitLeft) {
  on_a_thread([](Root& root) {
    std::ofstream(root.out() / "3") << "word";
    ExchangeFiles files = root.files();
    ASSERT_TRUE(files.open());
    EXPECT_THAT(*files.list_outbox(), ElementsAre(3));
    EXPECT_EQ(**files.read(3), "word");
    EXPECT_TRUE(files.write("answer"));
  });
}

// A file system of the user's own (FUSE) held up the folder's thread, and who waited for it.
TEST(ExchangeFiles, AMountOfTheUsers_IsNotEntered) {
  on_a_thread([](Root& root) {
    std::ofstream(root.out() / "3") << "word";
    std::ofstream(root.out() / "other") << "else";
    ASSERT_EQ(mount((root.out() / "other").c_str(), (root.out() / "3").c_str(), nullptr, MS_BIND,
                    nullptr),
              0);
    {
      ExchangeFiles files = root.files();
      ASSERT_TRUE(files.open());
      EXPECT_EQ(files.read(3).error().code(), Code::kCannotHold);
    }
    ASSERT_EQ(mount("mine", root.out().c_str(), "tmpfs", 0, nullptr), 0);
    ExchangeFiles files = root.files();
    EXPECT_FALSE(files.open());
  });
}

}  // namespace
}  // namespace fermata::node_agent
