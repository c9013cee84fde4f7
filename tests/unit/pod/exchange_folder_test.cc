// The agent's end of the exchange, with pods whose processes do in the folders what they like.
#include "node-agent/exchange_folder.h"

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

using node_agent::ExchangeFolder;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

constexpr const char* kFolder = "/dev/shm/.fermata/exchange";

/// A message of podinit's as the shell can write it: an abort with this status (below 64).
std::string abort_bytes(int status) {
  wire::ExchangeUp up;
  up.mutable_abort()->set_status(status);
  std::string text;
  for (const char signed_byte : up.SerializeAsString()) {
    const auto byte = static_cast<unsigned char>(signed_byte);
    const char digits[] = {'\\', static_cast<char>('0' + byte / 64),
                           static_cast<char>('0' + byte / 8 % 8), static_cast<char>('0' + byte % 8),
                           '\0'};
    text += digits;
  }
  return text;
}

/// Shell: says this in the outbox under this name.
std::string say(int name, int status) {
  return "printf '" + abort_bytes(status) + "' > .new; mv .new " + std::to_string(name) + "; ";
}

class ExchangeFolderTest : public PodFixture {
 protected:
  /// A pod of one whose rank plays podinit in the outbox, as nobody.
  void start_pod(const std::string& script_in_outbox) {
    PodSpec spec = as_nobody(script(std::string("cd /dev/shm/.fermata && mkdir -p exchange/in "
                                                "exchange/out && cd exchange/out && ") +
                                    script_in_outbox + " echo ready; exec sleep 1000"));
    id_ = {spec.job, 0, 0};
    user_ = spec.user;
    running_.emplace(start(spec));
  }
  void wait_ready() { read_until(running_->out.get(), "ready\n"); }
  void attach() {
    auto folder = ExchangeFolder::start(running_->pod.init_pid(), id_, user_,
                                        [this](const wire::ExchangeUp& up) {
                                          const std::lock_guard lock(mutex_);
                                          EXPECT_EQ(up.pod().job(), id_.step.job);
                                          heard_.push_back(up.abort().status());
                                        });
    ASSERT_TRUE(folder) << folder.error().message();
    folder_ = *std::move(folder);
  }
  std::vector<int> heard() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }
  bool hears(size_t count) {
    return eventually([&] { return heard().size() >= count; });
  }
  wire::ExchangeDown message(const std::string& blob = {}) {
    wire::ExchangeDown down;
    down.mutable_pod()->set_job(id_.step.job);
    down.mutable_pod()->set_step(id_.step.step);
    down.mutable_gathered()->set_blobs(blob);
    return down;
  }
  /// Names in the pod's inbox. The host's root may look.
  std::vector<std::string> inbox() {
    std::vector<std::string> names;
    const std::string path =
        "/proc/" + std::to_string(running_->pod.init_pid()) + "/root" + kFolder + "/in";
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  void TearDown() override {
    folder_.reset();
    running_.reset();
    PodFixture::TearDown();
  }

  PodId id_;
  Credentials user_;
  std::optional<RunningPod> running_;
  std::mutex mutex_;
  std::vector<int> heard_;
  std::unique_ptr<ExchangeFolder> folder_;
};

// The launch of a program that ends at once failed: "/proc/N/root: No such file or directory".
TEST_F(ExchangeFolderTest, APodThatHasEnded_IsSaidToBeGone) {
  start_pod("");
  wait_ready();
  ASSERT_EQ(send_signal(running_->pod.init_pidfd(), SIGKILL), 0);
  pollfd ended{running_->pod.init_pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 60'000), 1);
  const auto folder = ExchangeFolder::start(running_->pod.init_pid(), id_, user_,
                                            [](const wire::ExchangeUp& /*up*/) {});
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code(), Code::kGone) << folder.error().message();
}

TEST_F(ExchangeFolderTest, Messages_AreHandedUp_OnceForEachResend) {
  start_pod(say(1, 11) + say(2, 12));
  wait_ready();
  attach();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_THAT(heard(), ElementsAre()) << "before resend()";
  folder_->resend();
  ASSERT_TRUE(hears(2));
  EXPECT_THAT(heard(), ElementsAre(11, 12));
  folder_->resend();
  ASSERT_TRUE(hears(4));
  EXPECT_THAT(heard(), ElementsAre(11, 12, 11, 12));
}

TEST_F(ExchangeFolderTest, FoldersThatComeLater_AreFound_AndLaterMessagesHeard) {
  start_pod("sleep 0.2; " + say(1, 11) + "sleep 0.2; " + say(2, 12));
  attach();
  folder_->resend();
  ASSERT_TRUE(hears(2));
  EXPECT_THAT(heard(), ElementsAre(11, 12));
}

TEST_F(ExchangeFolderTest, LastWords_AreHeard_AfterThePodHasEnded) {
  start_pod("");
  wait_ready();
  attach();
  folder_->resend();
  folder_->deliver(message());
  ASSERT_TRUE(eventually([&] { return !inbox().empty(); })) << "the folders are not open";
  // The pod may be gone before the message is looked at; its /dev/shm is not, while held open.
  const std::string out =
      "/proc/" + std::to_string(running_->pod.init_pid()) + "/root" + kFolder + "/out";
  wire::ExchangeUp up;
  up.mutable_abort()->set_status(33);
  std::ofstream(out + "/7") << up.SerializeAsString();
  ASSERT_TRUE(running_->pod.destroy());
  folder_.reset();
  EXPECT_THAT(heard(), Contains(33));
}

TEST_F(ExchangeFolderTest, WhatAUserPutsThere_IsNotFollowedNorWaitedFor) {
  start_pod(
      "ln -s /etc/passwd 1; mkfifo 2; mkdir 3; printf '\\377\\377' > 4; truncate -s 1G 5; "
      "printf x > 006; printf x > 99999999999999999999; printf x > name; ln -s 8 7; " +
      say(8, 18));
  wait_ready();
  attach();
  folder_->resend();
  ASSERT_TRUE(hears(1));
  folder_->resend();
  ASSERT_TRUE(hears(2));
  EXPECT_THAT(heard(), ElementsAre(18, 18));
}

TEST_F(ExchangeFolderTest, AnOutboxThatLeadsElsewhere_IsNotEntered) {
  start_pod("mkdir /dev/shm/mine; cd /dev/shm/mine; " + say(1, 11) +
            "rmdir /dev/shm/.fermata/exchange/out; ln -s /dev/shm/mine "
            "/dev/shm/.fermata/exchange/out;");
  wait_ready();
  attach();
  folder_->resend();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_THAT(heard(), ElementsAre());
}

TEST_F(ExchangeFolderTest, FoldersAreTouched_WithTheOwnersRights) {
  start_pod("chmod 0 ../in; " + say(1, 11));
  wait_ready();
  attach();
  folder_->resend();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_THAT(heard(), ElementsAre()) << "root would not have minded";
}

TEST_F(ExchangeFolderTest, Deliveries_LieInTheInbox_ReadableByTheOwner) {
  start_pod("");
  wait_ready();
  attach();
  folder_->deliver(message("one"));
  folder_->deliver(message("two"));
  ASSERT_TRUE(eventually([&] { return inbox().size() == 2; }));
  EXPECT_THAT(inbox(), ElementsAre("1", "2"));
  const std::string path =
      "/proc/" + std::to_string(running_->pod.init_pid()) + "/root" + kFolder + "/in/1";
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, user_.uid);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  // An agent that comes later does not write over what is unread.
  folder_.reset();
  attach();
  folder_->deliver(message("three"));
  ASSERT_TRUE(eventually([&] { return inbox().size() == 3; }));
}

TEST_F(ExchangeFolderTest, MessagesForOthers_AreDropped) {
  start_pod("");
  wait_ready();
  attach();
  wire::ExchangeDown other = message();
  other.mutable_pod()->set_start(1);
  folder_->deliver(other);
  other = message();
  other.mutable_pod()->set_pod(1);
  folder_->deliver(other);
  folder_->deliver(message());
  ASSERT_TRUE(eventually([&] { return !inbox().empty(); }));
  EXPECT_THAT(inbox(), ElementsAre("1"));
}

TEST_F(ExchangeFolderTest, NothingIsWritten_WhileHeld) {
  start_pod("");
  wait_ready();
  attach();
  ASSERT_TRUE(folder_->hold(std::chrono::seconds(10)));
  for (int i = 0; i < 5; ++i) folder_->deliver(message());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_THAT(inbox(), ElementsAre());
  folder_->release();
  EXPECT_TRUE(eventually([&] { return inbox().size() == 5; }));
}

TEST_F(ExchangeFolderTest, AFullInbox_IsWaitedFor) {
  start_pod(
      "cd ../in; i=0; while [ $i -lt 4096 ]; do : > x$i; i=$((i+1)); done; echo full; "
      "while [ ! -e /dev/shm/go ]; do sleep 0.01; done; rm x*;");
  read_until(running_->out.get(), "full\n");
  attach();
  folder_->deliver(message());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_THAT(inbox(), Not(Contains("1")));
  std::ofstream("/proc/" + std::to_string(running_->pod.init_pid()) + "/root/dev/shm/go") << "";
  EXPECT_TRUE(eventually([&] { return inbox() == std::vector<std::string>{"1"}; }));
}

}  // namespace
}  // namespace fermata::pod
