// A pod of the service from its launch to its end, as orders come.
#include "node-agent/pod_host.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "common/file_util.h"
#include "coord/agent.h"
#include "host_fixture.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/record_file.h"
#include "proto/pod_id.h"
#include "storage/image_reader.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::array kPhases{SetPhase::kPrepare, SetPhase::kIsolate,   SetPhase::kCapture,
                             SetPhase::kJoin,    SetPhase::kWriteBack, SetPhase::kCommit};

// The numbers on the wire are the coordinator's.
static_assert(static_cast<uint32_t>(SetPhase::kPrepare) ==
              static_cast<uint32_t>(coord::Phase::kPrepare));
static_assert(static_cast<uint32_t>(SetPhase::kIsolate) ==
              static_cast<uint32_t>(coord::Phase::kIsolate));
static_assert(static_cast<uint32_t>(SetPhase::kCapture) ==
              static_cast<uint32_t>(coord::Phase::kCapture));
static_assert(static_cast<uint32_t>(SetPhase::kJoin) == static_cast<uint32_t>(coord::Phase::kJoin));
static_assert(static_cast<uint32_t>(SetPhase::kWriteBack) ==
              static_cast<uint32_t>(coord::Phase::kWriteBack));
static_assert(static_cast<uint32_t>(SetPhase::kCommit) ==
              static_cast<uint32_t>(coord::Phase::kCommit));

class PodHostTest : public HostTest {
 protected:
  std::unique_ptr<TestHost> start_counter() {
    std::unique_ptr<TestHost> host = make_host(pod());
    const wire::Done done = host->ask(launch(counter()));
    EXPECT_EQ(done.outcome().code(), 0) << done.outcome().message();
    EXPECT_TRUE(eventually([&] { return count() > 0; }));
    return host;
  }
  bool is_frozen() const { return read_file(group() / "cgroup.freeze") != "0\n"; }
  bool is_cut() const {
    const Result<isolation::Isolation> found = isolation::Isolation::find(group());
    return found && found->still_cut();
  }
};

TEST_F(PodHostTest, APodIsLaunched_AndEndsWithItsStatus) {
  std::unique_ptr<TestHost> host = make_host(pod());
  EXPECT_FALSE(host->host().living());
  const wire::Done done = host->ask(launch("echo said; read line; exit 7"));
  ASSERT_EQ(done.outcome().code(), 0) << done.outcome().message();
  ASSERT_TRUE(host->wait_over());
  ASSERT_TRUE(host->report());
  EXPECT_TRUE(host->report()->status_known());
  EXPECT_EQ(host->report()->wait_status(), W_EXITCODE(7, 0));
  EXPECT_EQ(wire::from_wire(host->report()->id()), pod());
  EXPECT_EQ(*read_file(file("out.0")), "said\n");
  EXPECT_FALSE(fs::exists(group()));
  ASSERT_THAT(records(), SizeIs(1)) << "its end was not told yet";
  EXPECT_TRUE(records()[0].ended);
  EXPECT_EQ(records()[0].wait_status, W_EXITCODE(7, 0));
}

TEST_F(PodHostTest, ALaunchThatFails_LeavesNothing) {
  std::unique_ptr<TestHost> host = make_host(pod());
  wire::Order order = launch("true");
  order.mutable_launch()->set_command(0, "/no/such/program");
  const wire::Done done = host->ask(order);
  EXPECT_EQ(done.outcome().code(), static_cast<int>(Code::kNotFound)) << done.outcome().message();
  ASSERT_TRUE(host->wait_over());
  EXPECT_FALSE(host->report());
  expect_nothing_left();
}

TEST_F(PodHostTest, ItIsNamedWhileItRuns) {
  std::unique_ptr<TestHost> host = start_counter();
  const std::optional<wire::LivingPod> living = host->host().living();
  ASSERT_TRUE(living);
  EXPECT_EQ(wire::from_wire(living->id()), pod());
  EXPECT_THAT(living->pod_of_rank(), SizeIs(1));
  ASSERT_THAT(records(), SizeIs(1));
  EXPECT_TRUE(records()[0].alive());
  EXPECT_EQ(records()[0].group, group());
  EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
  EXPECT_FALSE(host->host().living());
  EXPECT_FALSE(host->report()) << "who orders the end need not be told";
  expect_nothing_left();
}

TEST_F(PodHostTest, ASetIsTaken_AndThePodRunsOn) {
  std::unique_ptr<TestHost> host = start_counter();
  const wire::Done done = take_until(*host, SetPhase::kCommit, 5);
  EXPECT_EQ(done.report().image(), "pod-0.h5");
  EXPECT_GT(done.report().memory_bytes(), 0U);
  EXPECT_GT(done.report().stand_still_ns(), 0U);
  const Result<storage::PodImage> image =
      storage::read_image(set_folder(5) / "pod-0.h5", done.report().digest());
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->header.crid, Crid{5});
  EXPECT_EQ(image->header.job, pod().step);
  EXPECT_TRUE(counts_on());
  EXPECT_FALSE(is_frozen());
  EXPECT_FALSE(is_cut());
  EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

TEST_F(PodHostTest, BetweenIsolateAndJoin_ItIsCutOff) {
  std::unique_ptr<TestHost> host = start_counter();
  take_until(*host, SetPhase::kIsolate, 5);
  EXPECT_TRUE(is_cut());
  EXPECT_EQ(host->ask(phase(SetPhase::kCapture, 5, set_folder(5))).outcome().code(), 0);
  EXPECT_TRUE(is_cut());
  EXPECT_TRUE(counts_on()) << "it runs, cut off";
  EXPECT_EQ(host->ask(phase(SetPhase::kJoin, 5, set_folder(5))).outcome().code(), 0);
  EXPECT_FALSE(is_cut());
  EXPECT_EQ(host->ask(roll_back(5)).outcome().code(), 0);
}

TEST_F(PodHostTest, RolledBackAfterAnyPhase_ItRunsOn_AndTheNextSetIsTaken) {
  std::unique_ptr<TestHost> host = start_counter();
  uint64_t crid = 10;
  for (const bool end_job : {false, true}) {
    for (const SetPhase last : kPhases) {
      ++crid;
      SCOPED_TRACE(fmt::format("phase {}, end {}", static_cast<int>(last), end_job));
      take_until(*host, last, crid, end_job);
      EXPECT_EQ(host->ask(roll_back(crid)).outcome().code(), 0);
      EXPECT_TRUE(counts_on());
      EXPECT_FALSE(is_frozen());
      EXPECT_FALSE(is_cut());
      if (last != SetPhase::kCommit) {
        EXPECT_TRUE(fs::is_empty(set_folder(crid)));
      }
    }
  }
  take_until(*host, SetPhase::kCommit, crid + 1);
  EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

TEST_F(PodHostTest, ACutThatRanOut_FailsTheSet) {
  std::unique_ptr<TestHost> host = start_counter();
  take_until(*host, SetPhase::kCapture, 5);
  {
    // As if its time were over.
    Result<isolation::Isolation> found = isolation::Isolation::find(group());
    ASSERT_TRUE(found);
    found->join();
  }
  const wire::Done done = host->ask(phase(SetPhase::kJoin, 5, set_folder(5)));
  EXPECT_EQ(done.outcome().code(), static_cast<int>(Code::kTimeout)) << done.outcome().message();
  const wire::Done late = host->ask(phase(SetPhase::kWriteBack, 5, set_folder(5)));
  EXPECT_EQ(late.outcome().code(), static_cast<int>(Code::kConflict)) << "it was rolled back";
  EXPECT_TRUE(counts_on());
}

TEST_F(PodHostTest, APhaseThatIsLate_IsAFailure) {
  std::unique_ptr<TestHost> host = start_counter();
  wire::Order order = phase(SetPhase::kPrepare, 5, set_folder(5));
  order.set_timeout_ns(1);
  EXPECT_EQ(host->ask(order).outcome().code(), static_cast<int>(Code::kTimeout));
  EXPECT_TRUE(counts_on());
}

TEST_F(PodHostTest, TheCoordinatorIsLost_TheSetIsRolledBack_ThePodRunsOn) {
  std::unique_ptr<TestHost> host = start_counter();
  for (const SetPhase last : kPhases) {
    take_until(*host, last, 20 + static_cast<uint64_t>(last), true);
    host->host().coordinator_lost();
    EXPECT_TRUE(counts_on());
    EXPECT_TRUE(eventually([&] { return !is_cut(); }));
  }
  EXPECT_TRUE(host->host().living());
  EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

TEST_F(PodHostTest, TheAgentEnds_ThePodRunsOn_AndIsTakenOver) {
  std::unique_ptr<TestHost> host = start_counter();
  take_until(*host, SetPhase::kCapture, 5, true);
  host->end();
  EXPECT_FALSE(host->is_over());
  EXPECT_TRUE(counts_on());
  EXPECT_FALSE(is_cut());
  ASSERT_THAT(records(), SizeIs(1));

  TestHost next(records()[0], run_dir());
  ASSERT_TRUE(eventually([&] { return next.host().living().has_value(); }));
  take_until(next, SetPhase::kCommit, 6);
  EXPECT_TRUE(counts_on());
  EXPECT_EQ(next.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

// It was told of as ended and its record removed, while its processes ran on.
TEST_F(PodHostTest, ALivingPodThatCannotBeTakenOver_IsEnded) {
  ASSERT_TRUE(fs::create_directories(group()));
  const pid_t member = fork();
  if (member == 0) {
    for (;;) pause();
  }
  std::ofstream(group() / "cgroup.procs") << member << std::flush;
  PodRecord record;
  record.id = pod();
  record.init = getpid();  // lives, and is of another group
  record.init_start = process_start_time(getpid());
  record.group = group();
  TestHost host(record, run_dir());
  ASSERT_TRUE(host.wait_over());
  ASSERT_TRUE(host.report());
  EXPECT_THAT(host.report()->reason(), HasSubstr("could not be taken over"));
  EXPECT_FALSE(fs::exists(group()));
  int status = 0;
  ASSERT_EQ(waitpid(member, &status, 0), member);
  EXPECT_TRUE(WIFSIGNALED(status));
}

// A pod whose launch outlived its stream was named in no Hello and stayed for ever.
TEST_F(PodHostTest, APodWhoseCoordinatorWasLostAtItsLaunch_IsNamedOrGone) {
  std::chrono::steady_clock::duration whole{};
  uint32_t start = 0;
  const auto begin = std::chrono::steady_clock::now();
  {
    std::unique_ptr<TestHost> host = make_host(pod(0, start++));
    ASSERT_EQ(host->ask(launch("sleep 600")).outcome().code(), 0);
    whole = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
  }
  constexpr int kTries = 12;
  for (int i = 0; i < kTries; ++i) {
    std::unique_ptr<TestHost> host = make_host(pod(0, start++));
    host->send(launch("sleep 600"));
    std::this_thread::sleep_for(whole * i / kTries);
    host->host().coordinator_lost();
    if (host->host().living()) {
      EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
    }
    EXPECT_TRUE(host->wait_over()) << "lost after " << i << " parts of a launch";
    expect_nothing_left();
    if (HasFailure()) break;
  }
}

TEST_F(PodHostTest, EndedAfterItsSet_ItIsReported) {
  std::unique_ptr<TestHost> host = start_counter();
  take_until(*host, SetPhase::kCommit, 5, true);
  const long last = count();
  const wire::Done done =
      host->ask(simple([](wire::Order& order) { order.mutable_end_job()->set_crid(5); }));
  EXPECT_EQ(done.outcome().code(), 0) << done.outcome().message();
  ASSERT_TRUE(host->wait_over());
  ASSERT_TRUE(host->report());
  EXPECT_EQ(host->report()->wait_status(), W_EXITCODE(0, SIGKILL));
  EXPECT_THAT(host->report()->reason(), HasSubstr("checkpoint 5"));
  EXPECT_EQ(count(), last) << "it stood still from the cut to its end";
  EXPECT_FALSE(fs::exists(group()));
}

TEST_F(PodHostTest, AbleTellsWhatAnImageWouldCost) {
  std::unique_ptr<TestHost> host = start_counter();
  const wire::Done done = host->ask(simple([](wire::Order& order) { order.mutable_able(); }));
  EXPECT_EQ(done.outcome().code(), 0) << done.outcome().message();
  EXPECT_GE(done.able().processes(), 2U);
  EXPECT_GT(done.able().image_bytes(), 0U);
  EXPECT_TRUE(counts_on());
}

TEST_F(PodHostTest, ASignalReachesTheRanks) {
  std::unique_ptr<TestHost> host = make_host(pod());
  ASSERT_EQ(host->ask(launch("trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done"))
                .outcome()
                .code(),
            0);
  ASSERT_TRUE(eventually([&] { return read_file(file("out.0")) == "ready\n"; }));
  const wire::Done done =
      host->ask(simple([](wire::Order& order) { order.mutable_signal()->set_signal(SIGUSR1); }));
  EXPECT_EQ(done.outcome().code(), 0) << done.outcome().message();
  ASSERT_TRUE(host->wait_over());
  EXPECT_EQ(host->report()->wait_status(), W_EXITCODE(9, 0));
}

TEST_F(PodHostTest, OrdersOutOfPlace_AreAnsweredWithAFailure) {
  std::unique_ptr<TestHost> host = start_counter();
  EXPECT_EQ(host->ask(launch("true")).outcome().code(), static_cast<int>(Code::kConflict));
  EXPECT_EQ(host->ask(go()).outcome().code(), static_cast<int>(Code::kConflict));
  EXPECT_EQ(host->ask(phase(SetPhase::kCapture, 5, set_folder(5))).outcome().code(),
            static_cast<int>(Code::kConflict));
  EXPECT_EQ(host->ask(simple([](wire::Order& order) { order.mutable_end_job()->set_crid(5); }))
                .outcome()
                .code(),
            static_cast<int>(Code::kConflict));
  EXPECT_EQ(host->ask(roll_back(4)).outcome().code(), 0);
  EXPECT_TRUE(counts_on());
}

TEST_F(PodHostTest, DestroyedInAnyPhase_NothingIsLeft) {
  uint32_t start = 0;
  for (const SetPhase last : kPhases) {
    SCOPED_TRACE(static_cast<int>(last));
    std::unique_ptr<TestHost> host = make_host(pod(0, start++));
    ASSERT_EQ(host->ask(launch(counter())).outcome().code(), 0);
    take_until(*host, last, 30 + start, true);
    EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
    ASSERT_TRUE(host->wait_over());
    expect_nothing_left();
  }
}

}  // namespace
}  // namespace fermata::node_agent
