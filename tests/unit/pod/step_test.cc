// Several pods of one step on this machine, with the folder of each pod's exchange and the
// coordinator's board in this process in place of agents and coordinator. The host names differ, so
// that Open MPI takes them for nodes and uses TCP; the network is a namespace of our own.
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <thread>

#include "coord/exchange_board.h"
#include "node-agent/exchange_folder.h"
#include "pod_fixture.h"

namespace fermata::pod {
namespace {

using node_agent::ExchangeFolder;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr const char* kAddress = "198.51.100.1";

/// Carries messages between the pods of a step, as agents and coordinator do.
class Carrier {
 public:
  Carrier(JobStep step, std::vector<uint32_t> pod_of_rank, uint32_t pods)
      : step_(step), pod_of_rank_(std::move(pod_of_rank)), folders_(pods) {
    make_board();
  }

  void attach(uint32_t pod, pid_t init, const Credentials& user) {
    auto folder = ExchangeFolder::start(init, {step_, pod, 0}, user,
                                        [this](const wire::ExchangeUp& up) { carry(up); });
    ASSERT_TRUE(folder) << folder.error().message();
    const std::lock_guard lock(mutex_);
    folders_[pod] = *std::move(folder);
    folders_[pod]->resend();
    send(board_->attached(pod));
  }
  /// The pod's agent is gone.
  void detach(uint32_t pod) {
    std::unique_ptr<ExchangeFolder> folder;
    {
      const std::lock_guard lock(mutex_);
      folder = std::move(folders_[pod]);
    }
    // Outside of the lock: its thread may be in carry().
  }
  /// The coordinator forgets everything, and its agents attach again.
  void restart_coordinator() {
    const std::lock_guard lock(mutex_);
    make_board();
    for (auto& folder : folders_) {
      if (folder) folder->resend();
    }
  }
  ExchangeFolder& folder(uint32_t pod) { return *folders_[pod]; }
  size_t messages() {
    const std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  void make_board() {
    board_.emplace(step_, 0, pod_of_rank_, static_cast<uint32_t>(folders_.size()));
  }
  void carry(const wire::ExchangeUp& up) {
    const std::lock_guard lock(mutex_);
    ++messages_;
    send(board_->take(up));
  }
  void send(const std::vector<wire::ExchangeDown>& downs) {
    for (const wire::ExchangeDown& down : downs) {
      ExchangeFolder* folder = folders_[down.pod().pod()].get();
      if (folder != nullptr) folder->deliver(down);
    }
  }

  JobStep step_;
  std::vector<uint32_t> pod_of_rank_;
  std::mutex mutex_;
  std::optional<coord::ExchangeBoard> board_;
  std::vector<std::unique_ptr<ExchangeFolder>> folders_;
  size_t messages_ = 0;
};

class StepTest : public PodFixture {
 protected:
  static void SetUpTestSuite() {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    const std::string wires = std::string(
                                  "ip link set lo up && ip link add step0 type veth peer "
                                  "name step1 && ip address add ") +
                              kAddress +
                              "/24 dev step0 && ip link set step0 up && "
                              "ip link set step1 up";
    ASSERT_EQ(system(wires.c_str()), 0);
  }

  /// `command` on ranks laid out as `pod_of_rank` says.
  void start_step(std::vector<std::string> command, std::vector<uint32_t> pod_of_rank) {
    const uint32_t pods = *std::max_element(pod_of_rank.begin(), pod_of_rank.end()) + 1;
    command[0] = program(command[0]);
    PodSpec spec = as_nobody(spec_of(std::move(command)));
    spec.ranks = static_cast<uint32_t>(pod_of_rank.size());
    spec.pod_of_rank = pod_of_rank;
    for (uint32_t pod = 0; pod < pods; ++pod) spec.hosts.push_back("node" + std::to_string(pod));
    spec.environment.emplace_back("ASAN_OPTIONS=detect_leaks=0");
    // More ranks than cores here, though no pod can know it.
    spec.environment.emplace_back("OMPI_MCA_mpi_yield_when_idle=1");
    user_ = spec.user;
    carrier_ = std::make_unique<Carrier>(spec.job, std::move(pod_of_rank), pods);
    for (spec.pod = 0; spec.pod < pods; ++spec.pod) {
      spec.group.name = to_string(spec.job) + "." + std::to_string(spec.pod);
      running_.push_back(start(spec));
      carrier_->attach(spec.pod, running_.back().pod.init_pid(), user_);
    }
  }

  /// All pods' ends.
  std::vector<Finished> finish_step() {
    std::vector<Finished> finished;
    for (RunningPod& pod : running_) finished.push_back(finish(std::move(pod)));
    for (uint32_t pod = 0; pod < running_.size(); ++pod) carrier_->detach(pod);
    running_.clear();
    return finished;
  }
  std::vector<Finished> run_step(std::vector<std::string> command,
                                 std::vector<uint32_t> pod_of_rank) {
    start_step(std::move(command), std::move(pod_of_rank));
    return finish_step();
  }

  static std::vector<int> statuses(const std::vector<Finished>& finished) {
    std::vector<int> all;
    for (const Finished& pod : finished) all.push_back(pod.status);
    return all;
  }
  static std::string result_line(const std::string& out) {
    std::smatch match;
    const std::regex line("[a-z_]+: ranks [0-9]+ iterations [0-9]+ result [0-9a-f]{16}\n");
    return std::regex_search(out, match, line) ? match.str() : "";
  }
  Credentials user_;
  std::unique_ptr<Carrier> carrier_;
  std::vector<RunningPod> running_;
};

TEST_F(StepTest, Ring_GivesTheSameResult_OnOneTwoAndThreePods) {
  const Finished alone = run([&] {
    PodSpec spec = as_nobody(spec_of({program("mpi/ring"), "50"}));
    spec.ranks = 6;
    return spec;
  }());
  ASSERT_EQ(alone.status, 0) << alone.err;
  const std::vector<std::vector<uint32_t>> layouts{
      {0, 0, 0, 1, 1, 1}, {0, 0, 1, 1, 2, 2}, {2, 0, 1, 0, 2, 1}};
  for (const std::vector<uint32_t>& layout : layouts) {
    const std::vector<Finished> pods = run_step({"mpi/ring", "50"}, layout);
    EXPECT_THAT(statuses(pods), Each(0)) << pods[0].err << pods[1].err;
    // Rank 0 prints it, wherever it is.
    EXPECT_EQ(result_line(pods[layout[0]].out), result_line(alone.out));
  }
}

TEST_F(StepTest, Mpi_UsesTcp_BetweenPods) {
  start_step({"mpi/ring", "2000000", "1000"}, {0, 1});
  // Rank 0 says how far it is when the ring begins.
  read_until(running_[0].out.get(), "iteration 0");
  // 198.51.100.1 as /proc has it, on both ends of an established connection (01).
  const std::regex established(" 016433C6:[0-9A-F]+ 016433C6:[0-9A-F]+ 01 ");
  EXPECT_TRUE(eventually([&] {
    return std::regex_search(read_file("/proc/net/tcp"), established);
  })) << read_file("/proc/net/tcp");
  for (RunningPod& pod : running_) EXPECT_TRUE(pod.pod.signal(SIGTERM));
  // Whichever ends first: the other one may meet that (SIGPIPE) before its own signal.
  EXPECT_THAT(statuses(finish_step()), Each(testing::Ne(0)));
}

TEST_F(StepTest, Abort_EndsAllPods_WithItsCode) {
  const std::vector<Finished> pods = run_step({"mpi/ends", "abort", "42"}, {0, 0, 1, 1, 2, 2});
  EXPECT_THAT(statuses(pods), Each(42));
  EXPECT_THAT(pods[2].err, HasSubstr("rank 5 aborted the job with status 42"));
  EXPECT_THAT(pods[0].err, HasSubstr("node2: rank 5 aborted the job with status 42"));
}

TEST_F(StepTest, ARankThatLeavesWithoutFinalize_EndsAllPods) {
  EXPECT_THAT(statuses(run_step({"mpi/ends", "signal", std::to_string(SIGKILL)}, {0, 1, 2})),
              Each(128 + SIGKILL));
  EXPECT_THAT(statuses(run_step({"mpi/ends", "exit", "0"}, {0, 1})), Each(1));
}

TEST_F(StepTest, EachPod_HasTheStatusOfItsOwnRanks_AfterFinalize) {
  EXPECT_THAT(statuses(run_step({"mpi/ends", "after", "10"}, {0, 0, 1})),
              testing::ElementsAre(11, 12));
}

TEST_F(StepTest, Server_AnswersWhatPmixClientsAsk_AcrossPods) {
  for (const std::vector<uint32_t>& layout : {std::vector<uint32_t>{0, 1}, {1, 0}}) {
    const std::vector<Finished> pods = run_step({"pmix_client", "apart"}, layout);
    EXPECT_THAT(statuses(pods), Each(0)) << pods[0].err << pods[1].err;
    EXPECT_THAT(pods[layout[0]].out, HasSubstr("rank 0: ok\n"));
    EXPECT_THAT(pods[layout[1]].out, HasSubstr("rank 1: ok\n"));
  }
}

TEST_F(StepTest, Step_GoesOn_WhileAgentsAndCoordinatorComeAndGo) {
  start_step({"pmix_client", "fences", "400"}, {0, 1, 2});
  const auto heard = [this](size_t more) {
    const size_t before = carrier_->messages();
    return eventually([&] { return carrier_->messages() >= before + more; });
  };
  int rounds = 0;
  for (; rounds < 6; ++rounds) {
    if (!heard(20)) break;  // it has ended
    const auto pod = static_cast<uint32_t>(rounds % 3);
    carrier_->detach(pod);
    carrier_->attach(pod, running_[pod].pod.init_pid(), user_);
    if (!heard(20)) break;
    carrier_->restart_coordinator();
  }
  const std::vector<Finished> pods = finish_step();
  EXPECT_GT(rounds, 0);
  EXPECT_THAT(statuses(pods), Each(0)) << pods[0].err << pods[1].err << pods[2].err;
}

TEST_F(StepTest, NothingReachesAPod_ThatIsHeld) {
  start_step({"pmix_client", "fences", "100000"}, {0, 1});
  ASSERT_TRUE(eventually([this] { return carrier_->messages() > 100; }));
  ASSERT_TRUE(carrier_->folder(0).hold(std::chrono::seconds(10)));
  ASSERT_TRUE(carrier_->folder(1).hold(std::chrono::seconds(10)));
  // What lay in the inboxes is read, what it leads to is said, and then there is silence.
  size_t seen = 0;
  EXPECT_TRUE(eventually([&] {
    const size_t before = std::exchange(seen, carrier_->messages());
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return before == seen && carrier_->messages() == seen;
  }));
  carrier_->folder(0).release();
  carrier_->folder(1).release();
  EXPECT_TRUE(eventually([&] { return carrier_->messages() > seen + 100; }));
  for (RunningPod& pod : running_) EXPECT_TRUE(pod.pod.signal(SIGTERM));
  finish_step();
}

}  // namespace
}  // namespace fermata::pod
