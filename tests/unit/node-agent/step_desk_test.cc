#include "node-agent/step_desk.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "node-agent/record_file.h"
#include "stub_talk.h"
#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

using std::chrono::seconds;
using stub_talk::connect_to;
using stub_talk::hear;
using stub_talk::kind_of;
using stub_talk::say;

constexpr seconds kPatience{30};
constexpr uid_t kNobody = 65534;
constexpr PodId kPod{{7, 0}, 0, 0};

/// What the desk has said, waited for.
class Heard {
 public:
  StepDeskEvents events() {
    StepDeskEvents made;
    made.offer = [this](const wire::StepOffer& offer) {
      add(offer.withdrawn() ? "withdrawn" : "offer");
    };
    made.signal = [this](const PodId&, uint32_t rank, int signo) {
      add("signal " + std::to_string(signo) + " to " + std::to_string(rank));
    };
    made.abandoned = [this](const PodId& pod) { add("abandoned " + std::to_string(pod.pod)); };
    return made;
  }
  bool wait_for(const std::string& what) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] {
      return std::find(said_.begin(), said_.end(), what) != said_.end();
    });
  }
  std::vector<std::string> all() {
    const std::lock_guard lock(mutex_);
    return said_;
  }

 private:
  void add(std::string what) {
    const std::lock_guard lock(mutex_);
    said_.push_back(std::move(what));
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> said_;
};

class StepDeskTest : public testing::Test {
 protected:
  void SetUp() override {
    open_desk([&] { return StepDesk::open(socket_, "", heard_.events()); });
  }
  void open_desk(const std::function<Result<std::unique_ptr<StepDesk>>()>& open) {
    desk_.reset();
    Result<std::unique_ptr<StepDesk>> opened = open();
    ASSERT_TRUE(opened) << opened.error().message();
    desk_ = *std::move(opened);
  }

  /// A task of the step, as slurmstepd introduces it; of `here` on this node.
  UniqueFd introduced(uint32_t rank, uint32_t here, uint32_t nodes = 1,
                      uint64_t job = kPod.step.job) const {
    StepTask task;
    task.job = job;
    task.nodes = nodes;
    task.ranks = task.here = here;
    task.rank = rank;
    task.gid = 17;
    task.groups = {18, 19};
    UniqueFd fd = connect_to(socket_);
    say(fd, to_fields(task));
    return fd;
  }

  void ready(const UniqueFd& stub) const {
    const UniqueFd memory(memfd_create("task", MFD_CLOEXEC));
    const std::string text =
        encode_stub_fields(to_fields(TaskCommand{"/bin/true", {"true"}, {"A=b"}, "/"}));
    ASSERT_EQ(write(memory.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    say(stub, {{"kind", "ready"}}, {memory.get(), null.get(), null.get(), null.get()});
  }

  static StubFields attach(uint32_t rank) { return stub_talk::attach(kPod.step.job, rank); }

  ScratchFolder folder_;
  std::filesystem::path socket_ = folder_.path() / "steps";
  Heard heard_;
  std::unique_ptr<StepDesk> desk_;
};

// An agent that is started anew opens its socket before it has found its pods.
TEST_F(StepDeskTest, Stub_IsNotToldThatItsRankHasEnded_WhenItComesBeforeThePodsAreKnown) {
  const UniqueFd stub = connect_to(socket_);
  say(stub, attach(0));
  desk_->expect(kPod, {0}, 0, {{0, getpid(), process_start_time(getpid())}});
  desk_->begin();
  EXPECT_EQ(kind_of(hear(stub, std::chrono::milliseconds(300))), "silence");
  desk_->pod_over(kPod, W_EXITCODE(3, 0));
  const StubFields said = hear(stub);
  EXPECT_EQ(kind_of(said), "ended");
  EXPECT_EQ(stub_number(said, "status"), static_cast<uint64_t>(W_EXITCODE(3, 0)));
}

TEST_F(StepDeskTest, Pod_IsAbandoned_WhenItsStubsDieWhileItIsBeingMade) {
  desk_->begin();
  UniqueFd stub = introduced(0, 1);
  ready(stub);
  ASSERT_TRUE(heard_.wait_for("offer"));
  ASSERT_TRUE(desk_->take(kPod, {0}));
  stub = {};
  EXPECT_TRUE(heard_.wait_for("abandoned 0"));
}

TEST_F(StepDeskTest, Rank_IsKilledOnceItRuns_WhenItsStubAloneDiedBefore) {
  desk_->begin();
  UniqueFd first = introduced(0, 2);
  const UniqueFd second = introduced(1, 2);
  ready(first);
  ready(second);
  ASSERT_TRUE(heard_.wait_for("offer"));
  ASSERT_TRUE(desk_->take(kPod, {0, 1}));
  first = {};
  say(second, {{"kind", "signal"}, {"number", std::to_string(SIGUSR1)}});
  // Its answer shows that what was said before has been heard.
  const UniqueFd stranger = connect_to(socket_);
  say(stranger, attach(9));
  ASSERT_EQ(kind_of(hear(stranger)), "ended");
  desk_->started(kPod);
  EXPECT_TRUE(heard_.wait_for("signal 9 to 0"));
  EXPECT_TRUE(heard_.wait_for("signal " + std::to_string(SIGUSR1) + " to 1"));
  EXPECT_EQ(heard_.all().size(), 3U);
  EXPECT_EQ(kind_of(hear(second)), "started");
}

TEST_F(StepDeskTest, Task_IsNotThere_WhenItsStubHasDied) {
  desk_->begin();
  UniqueFd first = introduced(0, 2);
  const UniqueFd second = introduced(1, 2);
  ready(second);
  first = {};
  EXPECT_FALSE(desk_->take(kPod, {0, 1}));
}

// srun -n2 --pty: the task with the terminal is refused by the plugin, the other one waited for it.
TEST_F(StepDeskTest, Task_IsLetGo_WhenAnotherOfItsStepHasLeftBeforeAllWereThere) {
  desk_->begin();
  const UniqueFd second = introduced(1, 2);
  ready(second);
  introduced(0, 2).reset();
  EXPECT_EQ(kind_of(hear(second)), "refused");
}

TEST_F(StepDeskTest, Plugin_OfAnotherVersion_IsTold) {
  desk_->begin();
  const UniqueFd stub = connect_to(socket_);
  say(stub, {{"version", "77"}, {"kind", "task"}});
  const StubFields said = hear(stub);
  EXPECT_EQ(kind_of(said), "refused");
  const std::string text(stub_field(said, "text"));
  EXPECT_NE(text.find("version 77"), std::string::npos) << text;
  EXPECT_NE(text.find(std::string("version ") + kStubVersion), std::string::npos) << text;
}

// An agent that is younger than the steps on its node would have ended them all.
TEST_F(StepDeskTest, Stub_OfAnotherVersion_IsServed_WhenItsRankRuns) {
  desk_->expect(kPod, {0}, 0, {{0, getpid(), process_start_time(getpid())}});
  desk_->begin();
  const UniqueFd stub = connect_to(socket_);
  StubFields attaches = attach(0);
  std::erase_if(attaches, [](const auto& field) { return field.first == "version"; });
  say(stub, attaches);
  say(stub, {{"kind", "signal"}, {"number", "10"}});
  EXPECT_TRUE(heard_.wait_for("signal 10 to 0"));
}

TEST_F(StepDeskTest, OtherNodes_AreTold_WhenATaskHasLeftBeforeAllWereThere) {
  desk_->begin();
  introduced(0, 2, 2).reset();
  EXPECT_TRUE(heard_.wait_for("withdrawn"));
  desk_->resend();
  EXPECT_EQ(heard_.all(), (std::vector<std::string>{"withdrawn", "withdrawn"}));
}

TEST_F(StepDeskTest, AStepOfWhichATaskHasLeft_IsForgotten_ThoughTheOthersNeverCame) {
  open_desk([&] { return StepDesk::open(socket_, "", heard_.events(), seconds(0)); });
  desk_->begin();
  introduced(0, 2, 2).reset();
  EXPECT_TRUE(heard_.wait_for("withdrawn"));
  const UniqueFd other = introduced(0, 1, 1, kPod.step.job + 1);
  ready(other);
  EXPECT_TRUE(heard_.wait_for("offer"));
  desk_->resend();
  EXPECT_EQ(heard_.all(), (std::vector<std::string>{"withdrawn", "offer", "offer"}));
}

TEST_F(StepDeskTest, Task_IsLetGo_WhenAnotherOfItsStepHasLeftBeforeItCame) {
  desk_->begin();
  const UniqueFd second = introduced(1, 3);
  introduced(0, 3).reset();
  ASSERT_EQ(kind_of(hear(second)), "refused");
  EXPECT_EQ(kind_of(hear(introduced(2, 3))), "refused");
}

TEST_F(StepDeskTest, Pod_IsAbandoned_WhenItsStubsDiedWhileNoAgentWasThere) {
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, nullptr, 0);
  desk_->expect(kPod, {0, 1}, 0, {{0, gone, 1}, {1, gone, 1}});
  desk_->begin();
  EXPECT_TRUE(heard_.wait_for("abandoned 0"));
}

TEST_F(StepDeskTest, Pod_HasTheGroupsOfTheJob) {
  desk_->begin();
  const UniqueFd stub = introduced(0, 1);
  ready(stub);
  ASSERT_TRUE(heard_.wait_for("offer"));
  const Result<StepPart> part = desk_->take(kPod, {0});
  ASSERT_TRUE(part) << part.error().message();
  EXPECT_EQ(part->gid, 17U);
  EXPECT_EQ(part->groups, (std::vector<gid_t>{18, 19}));
}

TEST_F(StepDeskTest, Pod_RunsOn_WhileItsStubsLiveAndAreSilent) {
  desk_->expect(kPod, {0}, 0, {{0, getpid(), process_start_time(getpid())}});
  desk_->begin();
  std::this_thread::sleep_for(seconds(5));  // longer than two looks
  EXPECT_TRUE(heard_.all().empty());
}

/// Runs it as a user of no rights; whether it found all as it should be.
bool as_nobody(const std::function<bool()>& what) {
  const pid_t child = fork();
  if (child == 0) {
    if (setgroups(0, nullptr) != 0 || setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(2);
    _exit(what() ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_F(StepDeskTest, User_IsNotBelieved) {
  std::filesystem::permissions(folder_.path(), std::filesystem::perms(0755));
  desk_->begin();
  EXPECT_TRUE(as_nobody([&] {
    const UniqueFd lies = introduced(0, 1);
    return kind_of(hear(lies)) == "gone";
  }));
  EXPECT_TRUE(as_nobody([&] {
    const UniqueFd nothing = connect_to(socket_);
    say(nothing, {{"kind", "ready"}}, {0});
    return kind_of(hear(nothing)) == "gone";
  }));
  EXPECT_TRUE(heard_.all().empty());
}

TEST_F(StepDeskTest, User_CannotHoldMoreThanSomeConnections) {
  std::filesystem::permissions(folder_.path(), std::filesystem::perms(0755));
  desk_->begin();
  EXPECT_TRUE(as_nobody([&] {
    std::vector<UniqueFd> held;
    for (int i = 0; i < 600; ++i) held.push_back(connect_to(socket_));
    return kind_of(hear(held.back())) == "gone";
  }));
  UniqueFd stub = introduced(0, 1);
  ready(stub);
  EXPECT_TRUE(heard_.wait_for("offer"));
}

}  // namespace
}  // namespace fermata::node_agent
