// Of a real process on this machine, however many nodes it has.
#include "numa/placement.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "numa/affinity.h"
#include "numa/number_list.h"
#include "numa/plan.h"
#include "numa/survey.h"

namespace fermata::numa {
namespace {

constexpr size_t kLength = size_t{64} * 4096;

// A child that waits, bound to one CPU, with a bound range whose first half is touched.
class Child {
 public:
  explicit Child(int cpu)
      : range_(
            ::mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    int ready[2];
    if (::pipe(ready) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      const unsigned long node0 = 1;
      if (!apply_affinity(0, {cpu}) ||
          ::syscall(SYS_mbind, range_, kLength, MPOL_BIND, &node0, 65, 0) != 0) {
        ::_exit(1);
      }
      std::memset(range_, 1, kLength / 2);
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      ::pause();
    }
    ::close(ready[1]);
    char byte = 0;
    ready_ = ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(range_, kLength);
  }

  pid_t pid() const { return pid_; }
  bool ready() const { return ready_; }
  uint64_t start() const { return reinterpret_cast<uint64_t>(range_); }
  ProcessToPlace to_place() const {
    return {7,
            pid_,
            {{7, pid_, MPOL_DEFAULT, {}}},
            {{start(), start() + kLength, false, MPOL_BIND, {0}}}};
  }

 private:
  void* range_;
  pid_t pid_ = -1;
  bool ready_ = false;
};

TEST(Placement, RecordsCpusPoliciesAndPages) {
  const std::vector<int> cpus = *affinity_of(0);
  const Child child(cpus.back());
  ASSERT_TRUE(child.ready());
  const auto topology = current_topology();
  ASSERT_TRUE(topology) << topology.error().message();
  EXPECT_NE(topology->xml.find("<topology"), std::string::npos);
  EXPECT_EQ(topology->signature.substr(0, 6), "nodes ");

  const auto placement = capture_placement(*topology, {}, {child.to_place()}, {});
  ASSERT_TRUE(placement) << placement.error().message();
  EXPECT_EQ(placement->numa_nodes(), topology->numa_nodes);
  ASSERT_EQ(placement->threads_size(), 1);
  EXPECT_EQ(placement->threads(0).cpuset(), std::to_string(cpus.back()));
  EXPECT_EQ(placement->threads(0).policy_mode(), MPOL_DEFAULT);
  ASSERT_EQ(placement->processes_size(), 1);
  ASSERT_EQ(placement->processes(0).ranges_size(), 1);
  const image::RangePlacement& range = placement->processes(0).ranges(0);
  EXPECT_EQ(range.start(), child.start());
  EXPECT_EQ(range.policy_mode(), MPOL_BIND);
  EXPECT_EQ(range.policy_nodes(), "0");
  ASSERT_EQ(range.runs_size(), 1);
  EXPECT_EQ(range.runs(0).node(), 0);

  const auto plan = plan_placement(*placement, *topology, *allowed_here());
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_TRUE(plan->notes.empty());
  ASSERT_EQ(plan->affinity.size(), 1U);
  EXPECT_EQ(plan->affinity[0].cpus, std::vector<int>{cpus.back()});
  ASSERT_EQ(plan->after_contents.size(), 1U);
  EXPECT_EQ(plan->thread_policies.size(), 1U);
  // The planned call, made here, gives this process's twin of the range the same policy.
  PlannedCall call = plan->after_contents[0];
  ASSERT_EQ(call.mask_argument, 3);
  call.args[3] = reinterpret_cast<uint64_t>(call.nodemask.data());
  ASSERT_EQ(::syscall(call.number, call.args[0], call.args[1], call.args[2], call.args[3],
                      call.args[4], call.args[5]),
            0)
      << std::strerror(errno);
  int mode = -1;
  unsigned long nodes[16] = {};
  ASSERT_EQ(::syscall(SYS_get_mempolicy, &mode, nodes, 16 * 64, child.start(), MPOL_F_ADDR), 0);
  EXPECT_EQ(mode, MPOL_BIND);
  EXPECT_EQ(nodes[0], 1U);
}

TEST(Placement, FindsThePresentPages) {
  const Child child(affinity_of(0)->front());
  ASSERT_TRUE(child.ready());
  const auto runs = survey_process(child.pid());
  ASSERT_TRUE(runs) << runs.error().message();
  const std::vector<NodeRun> inside = clip(*runs, child.start(), child.start() + kLength);
  EXPECT_EQ(inside, (std::vector<NodeRun>{{child.start(), kLength, {0}, kLength / 2}}));
}

// Half of the pages on node 0, half on the last node: one and the same where there is but one.
TEST(Placement, TellsTheNodesOfPagesApart) {
  const auto topology = current_topology();
  ASSERT_TRUE(topology) << topology.error().message();
  const int last = static_cast<int>(topology->numa_nodes) - 1;
  void* range =
      ::mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto start = reinterpret_cast<uint64_t>(range);
  for (const auto& [offset, node] : {std::pair(size_t{0}, 0), std::pair(kLength / 2, last)}) {
    const unsigned long mask = 1UL << node;
    ASSERT_EQ(::syscall(SYS_mbind, start + offset, kLength / 2, MPOL_BIND, &mask, 65, 0), 0);
    std::memset(static_cast<char*>(range) + offset, 1, kLength / 2);
  }
  // One policy again, and so one map.
  ASSERT_EQ(::syscall(SYS_mbind, start, kLength, MPOL_DEFAULT, nullptr, 0, 0), 0);
  const ProcessToPlace self{7, ::getpid(), {}, {{start, start + kLength, false, -1, {}}}};
  const auto placement = capture_placement(*topology, {}, {self}, {});
  ::munmap(range, kLength);
  ASSERT_TRUE(placement) << placement.error().message();
  ASSERT_EQ(placement->processes_size(), 1);
  const image::RangePlacement& placed = placement->processes(0).ranges(0);
  ASSERT_EQ(placed.runs_size(), last == 0 ? 1 : 2);
  EXPECT_EQ(placed.runs(0).node(), 0);
  EXPECT_EQ(placed.runs(0).length(), last == 0 ? kLength : kLength / 2);
  EXPECT_EQ(placed.runs(placed.runs_size() - 1).node(), last);
}

TEST(Placement, NamesTheThread_ThatIsGone) {
  pid_t pid = 0;
  {
    const Child child(affinity_of(0)->front());
    pid = child.pid();
  }
  const auto placement = capture_placement({}, {}, {{7, pid, {{7, pid, -1, {}}}, {}}}, {});
  ASSERT_FALSE(placement);
  EXPECT_EQ(placement.error().code(), Code::kGone);
  EXPECT_NE(placement.error().message().find(std::to_string(pid)), std::string::npos);
}

}  // namespace
}  // namespace fermata::numa
