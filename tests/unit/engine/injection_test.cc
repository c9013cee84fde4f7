#include "node-agent/engine/injection.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "node-agent/engine/cgroup_freezer.h"
#include "tests/unit/engine/engine_fixture.h"

namespace fermata::engine {
namespace {

class InjectionTest : public EngineTest {
 protected:
  /// The pod, held; the process that start() made is its last.
  std::unique_ptr<FrozenPod> freeze() {
    Result<std::unique_ptr<FrozenPod>> frozen =
        FrozenPod::freeze(the_pod().group(), the_pod().init_pid(), 5000);
    EXPECT_TRUE(frozen) << frozen.error().message();
    return frozen ? *std::move(frozen) : nullptr;
  }

  static FrozenProcess program(const FrozenPod& frozen) { return frozen.processes().back(); }

  static Remote* remote_of_program(FrozenPod& frozen) {
    const FrozenProcess process = program(frozen);
    const Result<Remote*> remote = frozen.remote(process.vpid, process.threads.front().vtid);
    EXPECT_TRUE(remote) << remote.error().message();
    return remote ? *remote : nullptr;
  }

  /// More calls than the table has room for, each with a result of its own.
  static void expect_calls_work(FrozenPod& frozen) {
    Remote* remote = remote_of_program(frozen);
    ASSERT_NE(remote, nullptr);
    std::vector<RemoteCall> calls;
    for (uint64_t i = 0; i < 300; ++i) {
      calls.push_back({i % 3 == 0   ? SYS_getpid
                       : i % 3 == 1 ? SYS_gettid
                                    : SYS_close,
                       {1000 + i},
                       0});
    }
    const Status made = remote->run(calls);
    ASSERT_TRUE(made) << made.message();
    for (size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(calls[i].result, i % 3 == 2 ? -EBADF : program(frozen).vpid) << i;
    }
    const Result<long> one = remote->call("getpid", SYS_getpid);
    ASSERT_TRUE(one);
    EXPECT_EQ(*one, program(frozen).vpid);
  }
};

constexpr const char* kUntilGo = ": > ready; while ! [ -e go ]; do sleep 0.02; done; exit 5";

TEST_F(InjectionTest, Calls_HaveTheirResults_AndTheProgramItsOwn) {
  start(kUntilGo);
  wait_for_file("ready");
  for (int round = 0; round < 20; ++round) {
    const std::unique_ptr<FrozenPod> frozen = freeze();
    ASSERT_NE(frozen, nullptr);
    expect_calls_work(*frozen);
    ASSERT_TRUE(frozen->resume());
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 5);
}

// There is no signal then that it would not see: it is stopped at each call.
TEST_F(InjectionTest, Program_ThatIgnoresNoSignal_MakesCallsToo) {
  start(fmt::format("trap : URG WINCH PIPE USR1 USR2 IO XFSZ PWR HUP QUIT ALRM VTALRM; {}",
                    kUntilGo));
  wait_for_file("ready");
  const std::unique_ptr<FrozenPod> frozen = freeze();
  ASSERT_NE(frozen, nullptr);
  expect_calls_work(*frozen);
  ASSERT_TRUE(frozen->resume());
  write("go", "");
  EXPECT_EQ(wait_end(), 5);
}

// The calls are made in one go, not by two stops for each.
TEST_F(InjectionTest, ManyCalls_CostLittleMoreThanOne) {
  start(kUntilGo);
  wait_for_file("ready");
  const std::unique_ptr<FrozenPod> frozen = freeze();
  ASSERT_NE(frozen, nullptr);
  Remote* remote = remote_of_program(*frozen);
  ASSERT_NE(remote, nullptr);
  const auto best_of_ten = [&](size_t count) {
    auto best = std::chrono::steady_clock::duration::max();
    for (int round = 0; round < 10; ++round) {
      std::vector<RemoteCall> calls(count, RemoteCall{SYS_getpid, {}, 0});
      const auto began = std::chrono::steady_clock::now();
      EXPECT_TRUE(remote->run(calls));
      best = std::min(best, std::chrono::steady_clock::now() - began);
    }
    return best;
  };
  EXPECT_LT(best_of_ten(100), 20 * best_of_ten(1));
}

enum class Whom { kProcess, kThread };

class ForeignSignal : public InjectionTest, public ::testing::WithParamInterface<Whom> {};

TEST_P(ForeignSignal, SentWhileCallsAreMade_ArrivesOnce) {
  start(fmt::format("exec {}", URGENT));
  wait_for_file("ready");
  {
    const std::unique_ptr<FrozenPod> frozen = freeze();
    ASSERT_NE(frozen, nullptr);
    const pid_t pid = program(*frozen).pid;
    // Pending already, of the same kind: that of the calls joins it or comes before it.
    if (GetParam() == Whom::kThread) {
      ASSERT_EQ(::syscall(SYS_tgkill, pid, pid, SIGURG), 0);
    } else {
      ASSERT_EQ(::kill(pid, SIGURG), 0);
    }
    for (int round = 0; round < 3; ++round) expect_calls_work(*frozen);
    ASSERT_TRUE(frozen->resume());
  }
  wait_for_file("result");
  EXPECT_EQ(contents("result"), fmt::format("{}\n", SIGURG));
  EXPECT_EQ(wait_end(), 0) << "it came twice";
}

INSTANTIATE_TEST_SUITE_P(Both, ForeignSignal, ::testing::Values(Whom::kProcess, Whom::kThread));

TEST_F(InjectionTest, Stop_SentWhileCallsAreMade_StopsTheProgramAfterwards) {
  start(kUntilGo);
  wait_for_file("ready");
  pid_t pid = 0;
  {
    const std::unique_ptr<FrozenPod> frozen = freeze();
    ASSERT_NE(frozen, nullptr);
    pid = frozen->processes().at(1).pid;
    const Result<Remote*> remote = frozen->remote(frozen->processes().at(1).vpid,
                                                  frozen->processes().at(1).threads.front().vtid);
    ASSERT_TRUE(remote);
    ASSERT_EQ(::kill(pid, SIGSTOP), 0);
    for (int round = 0; round < 3; ++round) {
      std::vector<RemoteCall> calls(20, RemoteCall{SYS_getpid, {}, 0});
      ASSERT_TRUE((*remote)->run(calls));
      EXPECT_EQ(calls.back().result, frozen->processes().at(1).vpid);
    }
    ASSERT_TRUE(frozen->resume());
  }
  const auto state = [&] {
    const Result<ProcStatus> status = read_status(pid, pid);
    return status ? status->state : '?';
  };
  for (int i = 0; i < 500 && state() != 'T'; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(state(), 'T');
  ASSERT_EQ(::kill(pid, SIGCONT), 0);
  write("go", "");
  EXPECT_EQ(wait_end(), 5);
}

/// An agent of its own process that holds a pod and makes calls in it all the time.
class OtherAgent {
 public:
  explicit OtherAgent(pod::Pod& pod) : pid_(::fork()) {
    if (pid_ == 0) live(pod);
  }
  OtherAgent(const OtherAgent&) = delete;
  OtherAgent& operator=(const OtherAgent&) = delete;
  ~OtherAgent() {
    ::kill(pid_, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "a call had a wrong result";
  }

  void pause_for(std::chrono::milliseconds time) const {
    ASSERT_EQ(::kill(pid_, SIGSTOP), 0);
    std::this_thread::sleep_for(time);
    ASSERT_EQ(::kill(pid_, SIGCONT), 0);
  }

 private:
  [[noreturn]] static void live(pod::Pod& pod) {
    for (;;) {
      const Result<std::unique_ptr<FrozenPod>> frozen =
          FrozenPod::freeze(pod.group(), pod.init_pid(), 5000, /*left_frozen=*/true);
      if (!frozen) continue;
      const FrozenProcess process = (*frozen)->processes().back();
      const Result<Remote*> remote = (*frozen)->remote(process.vpid, process.threads.front().vtid);
      if (!remote) ::_exit(1);
      for (int i = 0; i < 20; ++i) {
        std::vector<RemoteCall> calls(120, RemoteCall{SYS_getpid, {}, 0});
        if (!(*remote)->run(calls) || calls.back().result != process.vpid) ::_exit(1);
      }
    }
  }

  pid_t pid_;
};

TEST_F(InjectionTest, Program_IsUnharmed_WhenItsAgentIsKilledAtAnyMoment) {
  start(fmt::format("exec {}", STEADY));
  wait_for_file("ready");
  for (int kill = 0; kill < 100; ++kill) {
    {
      const OtherAgent agent(the_pod());
      std::this_thread::sleep_for(std::chrono::microseconds(3000 + 137 * kill));
    }
    ASSERT_TRUE(write_freeze(the_pod().group(), false));
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 0);
}

TEST_F(InjectionTest, Program_IsUnharmed_WhenItsAgentStandsStill) {
  start(fmt::format("exec {}", STEADY));
  wait_for_file("ready");
  {
    const OtherAgent agent(the_pod());
    for (int pause = 0; pause < 20; ++pause) {
      std::this_thread::sleep_for(std::chrono::microseconds(5000 + 137 * pause));
      agent.pause_for(std::chrono::milliseconds(pause == 7 ? 5000 : 50));
    }
  }
  ASSERT_TRUE(write_freeze(the_pod().group(), false));
  write("go", "");
  EXPECT_EQ(wait_end(), 0);
}

}  // namespace
}  // namespace fermata::engine
