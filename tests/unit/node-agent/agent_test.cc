// All pods of a node under one agent, with a test in the coordinator's place.
#include "node-agent/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <thread>

#include "host_fixture.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/rank_ends.h"
#include "node-agent/record_file.h"
#include "proto/pod_id.h"
#include "stub_talk.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// The coordinator's end of the stream.
class Stream {
 public:
  Agent::Send send() {
    return [this](const wire::FromAgent& message) {
      if (message.has_ended()) {
        if (const auto meanwhile = std::exchange(on_end_, nullptr)) {
          meanwhile();
          return false;
        }
      }
      const std::lock_guard lock(mutex_);
      if (!stands_) return false;
      if (message.has_done()) answers_[message.done().order()] = message.done();
      if (message.has_ended()) ended_.push_back(message.ended());
      return true;
    };
  }
  /// The stream is found lost when the next end is told, and this happens before that is said.
  void lose_at_end(std::function<void()> meanwhile) { on_end_ = std::move(meanwhile); }
  void set(bool stands) {
    const std::lock_guard lock(mutex_);
    stands_ = stands;
  }
  wire::Done answer_to(uint64_t order) {
    EXPECT_TRUE(eventually([&] {
      const std::lock_guard lock(mutex_);
      return answers_.contains(order);
    })) << "order "
        << order << " was not answered";
    const std::lock_guard lock(mutex_);
    return answers_[order];
  }
  std::vector<wire::PodEnded> ended() const {
    const std::lock_guard lock(mutex_);
    return ended_;
  }

 private:
  mutable std::mutex mutex_;
  bool stands_ = true;
  std::function<void()> on_end_;
  std::map<uint64_t, wire::Done> answers_;
  std::vector<wire::PodEnded> ended_;
};

class AgentTest : public HostTest {
 protected:
  AgentOptions options() const { return {"testnode", run_dir(), 4}; }

  std::unique_ptr<Agent> start() {
    Result<std::unique_ptr<Agent>> agent = Agent::create(options(), stream_.send());
    EXPECT_TRUE(agent) << agent.error().message();
    (*agent)->adopt();
    return *std::move(agent);
  }
  wire::Done ask(Agent& agent, wire::Order order, const PodId& id) {
    order.set_id(++last_);
    *order.mutable_pod() = wire::to_wire(id);
    agent.order(std::move(order));
    return stream_.answer_to(last_);
  }
  /// In a process of its own, which is killed when it has done this.
  void run_and_kill_agent(const std::function<void(Agent&)>& work) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t agent = fork();
    if (agent == 0) {
      work(*start().release());
      [[maybe_unused]] const ssize_t told = write(ends[1], "x", 1);
      for (;;) pause();
    }
    char byte = 0;
    ASSERT_EQ(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    close(ends[1]);
    ASSERT_EQ(kill(agent, SIGKILL), 0);
    ASSERT_EQ(waitpid(agent, nullptr, 0), agent);
  }
  static wire::Order signal(int signo) {
    return simple([&](wire::Order& order) { order.mutable_signal()->set_signal(signo); });
  }

  /// Shell: goes on once go_on() was called.
  static std::string until_go() { return "until [ -e go ]; do sleep 0.02; done; "; }
  void go_on() const { std::ofstream(file("go")).close(); }

  Stream stream_;

 private:
  uint64_t last_ = 0;
};

TEST_F(AgentTest, HelloTellsWhatTheNodeIsAndHas) {
  const std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, launch(counter()), pod()).outcome().code(), 0);
  const wire::Hello hello = agent->hello();
  EXPECT_EQ(hello.node(), "testnode");
  EXPECT_EQ(hello.slots(), 4U);
  EXPECT_FALSE(hello.machine().kernel_release().empty());
  EXPECT_GT(hello.machine().vdso_size(), 0U);
  ASSERT_THAT(hello.pods(), SizeIs(1));
  EXPECT_EQ(wire::from_wire(hello.pods(0).id()), pod());
  EXPECT_EQ(ask(*agent, destroy(), pod()).outcome().code(), 0);
  EXPECT_THAT(agent->hello().pods(), IsEmpty());
  EXPECT_THAT(stream_.ended(), IsEmpty());
  expect_nothing_left();
}

TEST_F(AgentTest, OrdersForPodsThatAreNotHere_AreAnswered) {
  const std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, destroy(), pod()).outcome().code(), 0);
  EXPECT_EQ(ask(*agent, roll_back(1), pod()).outcome().code(), 0);
  const wire::Done done = ask(*agent, signal(SIGTERM), pod());
  EXPECT_EQ(done.outcome().code(), static_cast<int>(Code::kNotFound));
  EXPECT_THAT(done.outcome().message(), HasSubstr("testnode"));
}

TEST_F(AgentTest, AStartAfterAStartThatFailed_IsTaken) {
  const std::unique_ptr<Agent> agent = start();
  wire::Order bad = launch("true");
  bad.mutable_launch()->set_command(0, "/no/such/program");
  for (int i = 0; i < 20; ++i) EXPECT_NE(ask(*agent, bad, pod()).outcome().code(), 0);
  EXPECT_EQ(ask(*agent, launch(counter()), pod()).outcome().code(), 0);
  EXPECT_TRUE(counts_on());
  EXPECT_EQ(ask(*agent, destroy(), pod()).outcome().code(), 0);
  expect_nothing_left();
}

TEST_F(AgentTest, AnEndIsToldOnce_AndItsRecordGoes) {
  const std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, launch("exit 3"), pod()).outcome().code(), 0);
  ASSERT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  EXPECT_EQ(stream_.ended()[0].wait_status(), W_EXITCODE(3, 0));
  EXPECT_TRUE(eventually([&] { return records().empty(); }));
  agent->attached({});
  EXPECT_THAT(stream_.ended(), SizeIs(1));
}

// podinit goes once its word was heard; an agent that is killed then has told nobody yet.
TEST_F(AgentTest, HowRanksOfASlurmStepEnded_IsKnownToTheNextAgent) {
  PodRecord record;
  record.id = pod();
  record.init = 1;  // not the one that was recorded
  record.init_start = 1;
  record.pod_of_rank = {record.id.pod, record.id.pod};
  record.stubs = true;
  const uint64_t began = process_start_time(getpid());
  record.stub_processes = {{0, getpid(), began}, {1, getpid(), began}};
  const PodRegistry registry(run_dir());
  ASSERT_TRUE(registry.put(record));
  const auto ends = RankEnds::open(registry.ends_of(record.id), {0, 1});
  ASSERT_TRUE(ends) << ends.error().message();
  (*ends)->ended(0, W_EXITCODE(0, 0));
  (*ends)->ended(1, W_EXITCODE(7, 0));

  const std::unique_ptr<Agent> agent = start();
  for (const uint32_t rank : {0U, 1U}) {
    const UniqueFd stub = stub_talk::connect_to(run_dir() / "steps");
    StubFields who = stub_talk::attach(record.id.step.job, rank);
    for (auto& [name, value] : who) {
      if (name == "step") value = std::to_string(record.id.step.step);
      if (name == "start") value = std::to_string(record.id.start);
    }
    stub_talk::say(stub, who);
    const StubFields said = stub_talk::hear(stub);
    EXPECT_EQ(stub_talk::kind_of(said), "ended");
    EXPECT_EQ(stub_number(said, "status"), static_cast<uint64_t>(W_EXITCODE(rank == 0 ? 0 : 7, 0)));
  }
  ASSERT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  EXPECT_EQ(stream_.ended()[0].wait_status(), W_EXITCODE(7, 0));
  EXPECT_EQ(stream_.ended()[0].reason(), "");
  EXPECT_TRUE(eventually([&] { return !fs::exists(registry.ends_of(record.id)); }));
}

TEST_F(AgentTest, AnEndWithoutCoordinator_IsToldWhenItIsBack) {
  std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, launch(until_go() + "exit 3"), pod()).outcome().code(), 0);
  stream_.set(false);
  agent->lost();
  go_on();
  ASSERT_TRUE(eventually([&] { return records().size() == 1 && records()[0].ended; }));
  ASSERT_TRUE(eventually([&] { return agent->hello().pods().empty(); }));
  stream_.set(true);
  agent->attached({});
  // Its thread may just be about to tell it; and may do so when that was asked for again.
  ASSERT_TRUE(eventually([&] {
    agent->attached({});
    return !stream_.ended().empty();
  }));
  EXPECT_TRUE(eventually([&] { return records().empty(); }));
}

TEST_F(AgentTest, AnEndThatWentIntoALostStream_IsToldAgain) {
  const std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, launch("exit 3"), pod()).outcome().code(), 0);
  ASSERT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  ASSERT_TRUE(eventually([&] { return records().empty(); }));
  EXPECT_TRUE(eventually([&] {
    agent->lost();
    agent->attached({});
    return stream_.ended().size() >= 2;
  }));
}

// It was kept for the next stream only after that one had asked for what was kept.
TEST_F(AgentTest, AnEndWhileTheStreamIsReplaced_IsToldOnTheNewOne) {
  const std::unique_ptr<Agent> agent = start();
  stream_.lose_at_end([&] {
    agent->lost();
    agent->attached({});
  });
  EXPECT_EQ(ask(*agent, launch("exit 3"), pod()).outcome().code(), 0);
  EXPECT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  EXPECT_TRUE(eventually([&] { return records().empty(); }));
}

TEST_F(AgentTest, AnEndThatNobodyHeard_IsToldByTheNextAgent) {
  stream_.set(true);
  std::unique_ptr<Agent> agent = start();
  EXPECT_EQ(ask(*agent, launch("exit 3"), pod()).outcome().code(), 0);
  ASSERT_TRUE(eventually([&] { return records().empty(); }));
  const wire::Outcome begun = ask(*agent, launch(until_go() + "exit 4", 2), pod(1)).outcome();
  EXPECT_EQ(begun.code(), 0) << begun.message();
  stream_.set(false);
  go_on();
  ASSERT_TRUE(eventually([&] { return records().size() == 1 && records()[0].ended; }));
  agent.reset();
  agent = start();
  stream_.set(true);
  agent->attached({});
  ASSERT_THAT(stream_.ended(), SizeIs(2));
  EXPECT_EQ(wire::from_wire(stream_.ended()[1].id()), pod(1));
  EXPECT_EQ(stream_.ended()[1].wait_status(), W_EXITCODE(4, 0));
  EXPECT_THAT(records(), IsEmpty());
}

TEST_F(AgentTest, AProgramOfTwoPodsThatEndsAtOnce_IsLaunchedAndTold) {
  const std::unique_ptr<Agent> agent = start();
  constexpr size_t kTimes = 20;
  for (size_t i = 0; i < kTimes; ++i) {
    const wire::Outcome begun =
        ask(*agent, launch("exit 4", 2), pod(1, static_cast<uint32_t>(i))).outcome();
    EXPECT_EQ(begun.code(), 0) << begun.message();
    ASSERT_TRUE(eventually([&] { return stream_.ended().size() == i + 1; }));
    EXPECT_EQ(stream_.ended()[i].wait_status(), W_EXITCODE(4, 0));
  }
}

TEST_F(AgentTest, ASecondAgent_IsRefused) {
  const std::unique_ptr<Agent> agent = start();
  const Result<std::unique_ptr<Agent>> second = Agent::create(options(), stream_.send());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kBusy);
  EXPECT_THAT(second.error().message(), HasSubstr(run_dir().string()));
}

// The guards of the pods of one that was killed hold what it held until these are gone.
TEST_F(AgentTest, APodThatLacksMemory_IsWaitedForLonger_ThanAnotherAgent) {
  ASSERT_TRUE(start());
  fs::create_directories(run_dir() / "pods");
  ASSERT_TRUE(PodRegistry(run_dir()).note_memory_comes(pod()));
  UniqueFd held(open((run_dir() / "agent.lock").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(held.get(), LOCK_EX | LOCK_NB), 0);
  std::thread guard([&] {
    std::this_thread::sleep_for(std::chrono::seconds(4));
    held.reset();
  });
  const Result<std::unique_ptr<Agent>> next = Agent::create(options(), stream_.send());
  guard.join();
  EXPECT_TRUE(next) << next.error().message();
}

TEST_F(AgentTest, KilledWithSeveralPods_TheNextTakesOverThoseThatLive) {
  run_and_kill_agent([&](Agent& agent) {
    ask(agent, launch(counter(), 3), pod(0));
    ask(agent, launch("sleep 600", 3), pod(1));
    ask(agent, launch("sleep 600", 3), pod(2));
  });
  ASSERT_THAT(records(), SizeIs(3));
  ASSERT_TRUE(pod::kill_group(group(1)));
  ASSERT_TRUE(eventually([&] { return !records()[1].alive(); }));

  const std::unique_ptr<Agent> next = start();
  EXPECT_THAT(next->hello().pods(), SizeIs(2)) << "by the first hello";
  EXPECT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  EXPECT_EQ(wire::from_wire(stream_.ended()[0].id()), pod(1));
  EXPECT_TRUE(counts_on());
  for (const uint32_t number : {0U, 2U}) {
    EXPECT_EQ(ask(*next, destroy(), pod(number)).outcome().code(), 0);
  }
  expect_nothing_left(3);
}

TEST_F(AgentTest, KilledWhileItHeldASigterm_TheNextPassesItOn) {
  run_and_kill_agent([&](Agent& agent) {
    const std::string script = fmt::format(
        "trap 'exit 4' TERM; touch {}; while :; do sleep 0.02; done", file("ready").native());
    ask(agent, launch(script), pod());
    PodRegistry(run_dir()).note_held_terms(pod(), {0});
  });
  ASSERT_TRUE(eventually([&] { return fs::exists(file("ready")); }));

  const std::unique_ptr<Agent> next = start();
  ASSERT_TRUE(eventually([&] { return stream_.ended().size() == 1; }));
  EXPECT_EQ(stream_.ended()[0].wait_status(), W_EXITCODE(4, 0));
  EXPECT_THAT(PodRegistry(run_dir()).held_terms_of(pod()), IsEmpty());
}

}  // namespace
}  // namespace fermata::node_agent
