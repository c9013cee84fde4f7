// Pods of the service brought back in three steps, and given up at each of them.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "common/file_util.h"
#include "host_fixture.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod_placer.h"
#include "storage/set_lock.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class PodRestartTest : public HostTest {
 protected:
  /// A set of a pod that counts; the pod is ended.
  wire::PodReport take_and_end(uint64_t crid) { return take_and_end(crid, counter()); }
  wire::PodReport take_and_end(uint64_t crid, const std::string& script) {
    const std::unique_ptr<TestHost> host = make_host(pod());
    const wire::Done launched = host->ask(launch(script));
    EXPECT_EQ(launched.outcome().code(), 0) << launched.outcome().message();
    EXPECT_TRUE(eventually([&] { return count() > 3; }));
    const wire::Done done = take_until(*host, SetPhase::kCommit, crid, true);
    EXPECT_EQ(host->ask(destroy()).outcome().code(), 0);
    return done.report();
  }
};

TEST_F(PodRestartTest, APodComesBack_InThreeSteps_AndIsHeldAgain) {
  const wire::PodReport image = take_and_end(5);
  const long before = count();
  TestHost host(pod(0, 1), run_dir());
  const wire::Done stands = host.ask(restore(5, image));
  ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
  EXPECT_FALSE(host.host().living()) << "it does not run yet";
  const wire::Done connected = host.ask(connect(stands.addresses()));
  ASSERT_EQ(connected.outcome().code(), 0) << connected.outcome().message();
  EXPECT_EQ(count(), before);
  const wire::Done runs = host.ask(go());
  ASSERT_EQ(runs.outcome().code(), 0) << runs.outcome().message();
  EXPECT_TRUE(host.host().living());
  EXPECT_TRUE(eventually([&] { return count() > before; }));
  ASSERT_THAT(records(), SizeIs(1));
  EXPECT_EQ(records()[0].id, pod(0, 1));
  EXPECT_TRUE(records()[0].alive());
  EXPECT_FALSE(isolation::Isolation::find(group())->still_cut());
  const Result<image::Placement> planned =
      PodPlacer::load(PodRegistry(run_dir()).placement_of(pod(0, 1)));
  ASSERT_TRUE(planned) << planned.error().message();
  EXPECT_TRUE(planned->has_machine());
  EXPECT_GE(planned->processes_size(), 2);

  const wire::Done again = take_until(host, SetPhase::kCommit, 6, true);
  EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
  TestHost third(pod(0, 2), run_dir());
  const wire::Done third_stands = third.ask(restore(6, again.report()));
  ASSERT_EQ(third_stands.outcome().code(), 0) << third_stands.outcome().message();
  ASSERT_EQ(third.ask(connect(third_stands.addresses())).outcome().code(), 0);
  ASSERT_EQ(third.ask(go()).outcome().code(), 0);
  EXPECT_TRUE(counts_on());
  EXPECT_EQ(third.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

/// counter(), with 16 MiB that it looks at each time; one that are not what they were end it.
std::string large_counter(const fs::path& count) {
  return fmt::format(
      R"(exec perl -e '$| = 1; open F, ">>", "{}"; F->autoflush; $x = join "", map chr, 1..200; )"
      R"($m = $x x 80000; while () {{ exit 9 if $m ne $x x 80000; print F ++$i, "\n"; }}')",
      count.string());
}

TEST_F(PodRestartTest, OneWhoseMemoryComesLater_IsHeldWhenItHasCome) {
  const wire::PodReport image = take_and_end(5, large_counter(file("count")));
  const long before = count();
  TestHost host(pod(0, 1), run_dir());
  const wire::Done stands = host.ask(restore_lazily(5, image));
  ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
  const auto worked_on = storage::lock_set(set_folder(5));
  ASSERT_FALSE(worked_on) << "it is still to be read";
  EXPECT_EQ(worked_on.error().code(), Code::kBusy);
  ASSERT_EQ(host.ask(connect(stands.addresses())).outcome().code(), 0);
  const wire::Done runs = host.ask(go());
  ASSERT_EQ(runs.outcome().code(), 0) << runs.outcome().message();
  take_until(host, SetPhase::kCommit, 6);
  EXPECT_FALSE(PodRegistry(run_dir()).memory_comes(pod(0, 1)));
  EXPECT_TRUE(storage::lock_set(set_folder(5))) << "nobody reads it any more";
  EXPECT_TRUE(eventually([&] { return count() > before + 3; }));
  EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
  EXPECT_TRUE(fs::is_empty(run_dir() / "pods"));
}

TEST_F(PodRestartTest, OneWhoseMemoryIsLost_EndsWithThatReason) {
  const wire::PodReport image = take_and_end(5, large_counter(file("count")));
  const fs::path path = set_folder(5) / image.image();
  std::fstream bytes(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto size = static_cast<std::streamoff>(fs::file_size(path));
  for (std::streamoff at = size * 3 / 10; at < size * 7 / 10; at += 1 << 20) {
    bytes.seekg(at);
    const int byte = bytes.get();
    bytes.seekp(at);
    bytes.put(static_cast<char>(byte ^ 1));
  }
  bytes.close();
  const long before = count();
  TestHost host(pod(0, 1), run_dir());
  const wire::Done stands = host.ask(restore_lazily(5, image));
  ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
  ASSERT_EQ(host.ask(connect(stands.addresses())).outcome().code(), 0);
  const wire::Done runs = host.ask(go());
  ASSERT_TRUE(host.wait_over());
  // It may be found before the pod runs.
  const std::string why = host.report() ? host.report()->reason() : runs.outcome().message();
  EXPECT_THAT(why, HasSubstr("memory of the restart was lost"));
  EXPECT_THAT(why, HasSubstr("checksum"));
  EXPECT_LE(count(), before + 1) << "it ran on without its memory";
  EXPECT_FALSE(fs::exists(group()));
}

TEST_F(PodRestartTest, GivenUpAtAnyStep_NothingIsLeft) {
  const wire::PodReport image = take_and_end(5);
  for (int steps = 0; steps < 4; ++steps) {
    for (const bool lost : {false, true}) {
      SCOPED_TRACE(fmt::format("after {} steps, coordinator lost {}", steps, lost));
      TestHost host(pod(0, 1), run_dir());
      const uint64_t first = host.send(restore(5, image));
      if (steps > 0) {
        const wire::Done stands = host.answer_to(first);
        ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
        if (steps > 1) {
          ASSERT_EQ(host.ask(connect(stands.addresses())).outcome().code(), 0);
        }
        if (steps > 2) {
          ASSERT_EQ(host.ask(go()).outcome().code(), 0);
        }
      }
      if (lost && steps < 3) {
        host.host().coordinator_lost();
      } else {
        EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
      }
      ASSERT_TRUE(host.wait_over());
      EXPECT_FALSE(host.report());
      expect_nothing_left();
    }
  }
}

TEST_F(PodRestartTest, WithoutPlacement_NothingIsPlanned) {
  const wire::PodReport image = take_and_end(5);
  TestHost host(pod(0, 1), run_dir());
  wire::Order order = restore(5, image);
  order.mutable_restore()->set_numa("ignore");
  const wire::Done stands = host.ask(order);
  ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
  ASSERT_EQ(host.ask(connect(stands.addresses())).outcome().code(), 0);
  ASSERT_EQ(host.ask(go()).outcome().code(), 0);
  const Result<image::Placement> planned =
      PodPlacer::load(PodRegistry(run_dir()).placement_of(pod(0, 1)));
  ASSERT_TRUE(planned) << planned.error().message();
  EXPECT_FALSE(planned->has_machine());
  EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

TEST_F(PodRestartTest, TheAgentEndsWhileItWaits_NothingIsLeft) {
  const wire::PodReport image = take_and_end(5);
  TestHost host(pod(0, 1), run_dir());
  ASSERT_EQ(host.ask(restore(5, image)).outcome().code(), 0);
  host.end();
  expect_nothing_left();
}

TEST_F(PodRestartTest, AnImageThatIsNotTheOrdered_IsRefused) {
  const wire::PodReport image = take_and_end(5);
  const auto refused = [&](const std::function<void(wire::RestoreOrder&)>& change, Code code) {
    TestHost host(pod(0, 1), run_dir());
    wire::Order order = restore(5, image);
    change(*order.mutable_restore());
    const wire::Done done = host.ask(order);
    EXPECT_EQ(done.outcome().code(), static_cast<int>(code)) << done.outcome().message();
    EXPECT_TRUE(host.wait_over());
    expect_nothing_left();
  };
  refused([](wire::RestoreOrder& order) { order.set_digest(std::string(32, '0')); },
          Code::kDamaged);
  refused([](wire::RestoreOrder& order) { order.set_crid(6); }, Code::kDamaged);
  refused([](wire::RestoreOrder& order) { order.mutable_saved()->set_pod(1); }, Code::kDamaged);
  refused([](wire::RestoreOrder& order) { order.mutable_saved()->set_step(77); }, Code::kDamaged);
  refused([&](wire::RestoreOrder& order) { order.set_image(file("none").string()); },
          Code::kNotFound);
  refused([](wire::RestoreOrder& order) { order.set_numa("nearby"); }, Code::kUsage);
}

TEST_F(PodRestartTest, OtherOrders_AreRefusedWhileItIsBroughtBack) {
  const wire::PodReport image = take_and_end(5);
  TestHost host(pod(0, 1), run_dir());
  ASSERT_EQ(host.ask(restore(5, image)).outcome().code(), 0);
  EXPECT_EQ(host.ask(phase(SetPhase::kPrepare, 6, set_folder(6))).outcome().code(),
            static_cast<int>(Code::kBusy));
  EXPECT_EQ(host.ask(go()).outcome().code(), static_cast<int>(Code::kBusy));
  EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

/// A process that holds a pod until it is killed. `ready` is called in it, with the host.
pid_t agent_with(const std::function<void()>& hold) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const pid_t agent = fork();
  if (agent == 0) {
    hold();
    [[maybe_unused]] const ssize_t told = write(ends[1], "x", 1);
    for (;;) pause();
  }
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 1);
  close(ends[0]);
  close(ends[1]);
  return agent;
}

void kill_agent(pid_t agent) {
  ASSERT_GT(agent, 0);
  ASSERT_EQ(kill(agent, SIGKILL), 0);
  ASSERT_EQ(waitpid(agent, nullptr, 0), agent);
}

TEST_F(PodRestartTest, KilledInAnyPhase_ItsAgentLeavesARunningPod_ThatTheNextTakesOver) {
  for (const SetPhase last : {SetPhase::kPrepare, SetPhase::kIsolate, SetPhase::kCapture,
                              SetPhase::kJoin, SetPhase::kWriteBack}) {
    SCOPED_TRACE(static_cast<int>(last));
    const pid_t agent = agent_with([&] {
      // Never destroyed: the process is killed.
      auto* host = make_host(pod()).release();
      host->ask(launch(counter()));
      eventually([&] { return count() > 3; });
      take_until(*host, last, 40, true);
    });
    kill_agent(agent);
    ASSERT_THAT(records(), SizeIs(1));
    EXPECT_TRUE(records()[0].alive());
    EXPECT_TRUE(counts_on()) << "before anybody takes it over";
    EXPECT_TRUE(eventually([&] { return !isolation::Isolation::find(group())->still_cut(); }))
        << "before anybody takes it over";
    TestHost next(records()[0], run_dir());
    ASSERT_TRUE(eventually([&] { return next.host().living().has_value(); }));
    fs::remove_all(set_folder(40));
    take_until(next, SetPhase::kCommit, 41);
    EXPECT_TRUE(counts_on());
    EXPECT_EQ(next.ask(destroy()).outcome().code(), 0);
    expect_nothing_left();
  }
}

// LazyRestore's guard ends it; who kills the agent may kill that, too.
TEST_F(PodRestartTest, KilledWhileMemoryComes_APodThatLivesIsEndedByTheNext) {
  const pid_t agent = agent_with([&] {
    auto* host = make_host(pod()).release();
    host->ask(launch(counter()));
    eventually([&] { return count() > 3; });
  });
  kill_agent(agent);
  ASSERT_THAT(records(), SizeIs(1));
  ASSERT_TRUE(records()[0].alive());
  ASSERT_TRUE(PodRegistry(run_dir()).note_memory_comes(pod()));
  TestHost next(records()[0], run_dir());
  ASSERT_TRUE(next.wait_over());
  ASSERT_TRUE(next.report());
  EXPECT_THAT(next.report()->reason(), HasSubstr("memory of the restart was being read"));
  EXPECT_FALSE(fs::exists(group()));
}

TEST_F(PodRestartTest, KilledWhileAPodIsBroughtBack_ItsAgentLeavesNothing) {
  const wire::PodReport image = take_and_end(5);
  const pid_t agent = agent_with([&] {
    auto* host = make_host(pod(0, 1)).release();
    host->ask(restore(5, image));
  });
  kill_agent(agent);
  ASSERT_THAT(records(), SizeIs(1));
  TestHost next(records()[0], run_dir());
  ASSERT_TRUE(next.wait_over());
  ASSERT_TRUE(next.report());
  EXPECT_FALSE(next.report()->status_known());
  EXPECT_THAT(next.report()->reason(), HasSubstr("being started"));
  EXPECT_FALSE(fs::exists(group()));
}

TEST_F(PodRestartTest, APodTakenOver_IsReportedWithItsStatus) {
  const pid_t agent = agent_with([&] {
    auto* host = make_host(pod()).release();
    host->ask(launch("trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done"));
  });
  kill_agent(agent);
  ASSERT_THAT(records(), SizeIs(1));
  TestHost next(records()[0], run_dir());
  ASSERT_TRUE(eventually([&] { return read_file(file("out.0")) == "ready\n"; }));
  ASSERT_TRUE(eventually([&] { return next.host().living().has_value(); }));
  EXPECT_EQ(
      next.ask(simple([](wire::Order& order) { order.mutable_signal()->set_signal(SIGUSR1); }))
          .outcome()
          .code(),
      0);
  ASSERT_TRUE(next.wait_over());
  ASSERT_TRUE(next.report());
  EXPECT_TRUE(next.report()->status_known());
  EXPECT_EQ(next.report()->wait_status(), W_EXITCODE(9, 0));
}

TEST_F(PodRestartTest, APodThatEndedWithoutAnAgent_IsReportedOnce) {
  const pid_t agent = agent_with([&] {
    auto* host = make_host(pod()).release();
    host->ask(launch(counter()));
  });
  kill_agent(agent);
  ASSERT_THAT(records(), SizeIs(1));
  ASSERT_TRUE(pod::kill_group(group()));
  ASSERT_TRUE(eventually([&] { return !records()[0].alive(); }));
  TestHost next(records()[0], run_dir());
  ASSERT_TRUE(next.wait_over());
  ASSERT_TRUE(next.report());
  EXPECT_FALSE(next.report()->status_known());
  EXPECT_FALSE(fs::exists(group()));
  ASSERT_THAT(records(), SizeIs(1));
  EXPECT_TRUE(records()[0].ended);
}

}  // namespace
}  // namespace fermata::node_agent
