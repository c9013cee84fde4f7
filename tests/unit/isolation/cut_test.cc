// A cut drops what a pod's sockets send and receive; it ends by a join or by itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <string>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"

namespace fermata::isolation {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// Long enough for a packet on loopback to have come if it could.
constexpr int kSilence = 100;
// For what has to come.
constexpr int kPatience = 20'000;

struct Kind {
  const char* name;
  const char* address;
  int type;
};

class Cut : public testing::TestWithParam<Kind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, Cut,
                         testing::Values(Kind{"tcp4_loopback", "127.0.0.1", SOCK_STREAM},
                                         Kind{"tcp6_loopback", "::1", SOCK_STREAM},
                                         Kind{"tcp4", "10.77.0.1", SOCK_STREAM},
                                         Kind{"tcp6", "fd77::1", SOCK_STREAM},
                                         Kind{"tcp_mapped", "::ffff:10.77.0.1", SOCK_STREAM},
                                         Kind{"udp4_loopback", "127.0.0.1", SOCK_DGRAM},
                                         Kind{"udp6_loopback", "::1", SOCK_DGRAM},
                                         Kind{"udp4", "10.77.0.1", SOCK_DGRAM},
                                         Kind{"udp6", "fd77::1", SOCK_DGRAM},
                                         Kind{"udp_mapped", "::ffff:10.77.0.1", SOCK_DGRAM}),
                         [](const auto& kind) { return kind.param.name; });

Isolation installed(const PodGroup& group) {
  Result<Isolation> isolation = Isolation::install(group.path());
  if (!isolation) throw std::runtime_error(isolation.error().message());
  return *std::move(isolation);
}

TEST_P(Cut, ThatHears_DropsOnlyWhatGoesOut) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    // Of nobody's group: what it sends is dropped nowhere but at the pod.
    UniqueFd far = bound_socket(address(GetParam().address), GetParam().type);
    group.enter();
    const UniqueFd near = connected_socket(local_of(far), GetParam().type);
    if (GetParam().type == SOCK_STREAM) {
      far.reset(accept(far.get(), nullptr, nullptr));
    } else {
      const Address to = local_of(near);
      ASSERT_EQ(connect(far.get(), to.get(), to.length), 0);
    }
    isolation.hear(true);
    isolation.cut(1h);
    EXPECT_TRUE(passes(far, near, kPatience));
    EXPECT_TRUE(send_bytes(near, "a"));
    EXPECT_EQ(receive(far, kSilence), "");
    isolation.hear(false);
    EXPECT_TRUE(send_bytes(far, "b"));
    EXPECT_EQ(receive(near, kSilence), "");
    EXPECT_TRUE(isolation.still_cut());
    isolation.join();
    if (GetParam().type == SOCK_STREAM) {
      EXPECT_EQ(receive(far, kPatience), "a");
      EXPECT_EQ(receive(near, kPatience), "b");
    }
    // The next one is a whole one again.
    isolation.cut(1h);
    EXPECT_TRUE(send_bytes(far, "c"));
    EXPECT_EQ(receive(near, kSilence), "");
    isolation.join();
  });
}

TEST_P(Cut, DropsEverything_UntilJoin) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    group.enter();
    const Pair pair = make_pair(address(GetParam().address), GetParam().type);
    EXPECT_TRUE(passes(pair.near, pair.far, kPatience));
    EXPECT_TRUE(passes(pair.far, pair.near, kPatience));

    isolation.cut(1h);
    // The calls succeed: a program sees nothing of a cut.
    EXPECT_TRUE(send_bytes(pair.near, "a"));
    EXPECT_TRUE(send_bytes(pair.far, "b"));
    EXPECT_EQ(receive(pair.far, kSilence), "");
    EXPECT_EQ(receive(pair.near, kSilence), "");
    EXPECT_TRUE(isolation.still_cut());

    isolation.join();
    EXPECT_FALSE(isolation.still_cut());
    if (GetParam().type == SOCK_STREAM) {
      EXPECT_EQ(receive(pair.far, kPatience), "a");
      EXPECT_EQ(receive(pair.near, kPatience), "b");
    } else {
      EXPECT_EQ(receive(pair.far, kSilence), "") << "dropped, not kept back";
    }
    EXPECT_TRUE(passes(pair.near, pair.far, kPatience));
    EXPECT_TRUE(passes(pair.far, pair.near, kPatience));
  });
}

TEST_P(Cut, DropsWhatComesFromAndGoesToOthers) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    UniqueFd listener;
    UniqueFd inside;
    const Address at = address(GetParam().address);
    UniqueFd outside = bound_socket(at, GetParam().type);
    group.enter();
    inside = connected_socket(local_of(outside), GetParam().type);
    const Address from = local_of(inside);
    leave_pods();
    if (GetParam().type == SOCK_STREAM) {
      outside.reset(accept4(outside.get(), nullptr, nullptr, SOCK_CLOEXEC));
    } else {
      ASSERT_EQ(connect(outside.get(), from.get(), from.length), 0);
    }
    ASSERT_TRUE(passes(inside, outside, kPatience));
    isolation.cut(1h);
    EXPECT_TRUE(send_bytes(inside, "a"));
    EXPECT_TRUE(send_bytes(outside, "b"));
    EXPECT_EQ(receive(outside, kSilence), "");
    EXPECT_EQ(receive(inside, kSilence), "");
    isolation.join();
    EXPECT_TRUE(passes(inside, outside, kPatience));
    EXPECT_TRUE(passes(outside, inside, kPatience));
  });
}

TEST_P(Cut, EndsByItself) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    group.enter();
    const Pair pair = make_pair(address(GetParam().address), GetParam().type);
    const auto start = steady_clock::now();
    isolation.cut(200ms);
    while (!passes(pair.near, pair.far, 5) && seconds_since(start) < 20) {
    }
    EXPECT_GE(seconds_since(start), 0.2);
    EXPECT_LT(seconds_since(start), 20);
    EXPECT_FALSE(isolation.still_cut());
  });
}

TEST(CutTest, ReachesAcrossALink) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    const UniqueFd here(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    const std::string path =
        "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(here.get());
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    run("ip link add far type veth peer name near netns " + path +
        " && ip addr add 10.78.0.2/24 dev far && ip link set far up");
    const UniqueFd outside = bound_socket(address("10.78.0.2"), SOCK_DGRAM);
    ASSERT_EQ(setns(here.get(), CLONE_NEWNET), 0);
    run("ip addr add 10.78.0.1/24 dev near && ip link set near up");
    group.enter();
    const UniqueFd inside = connected_socket(local_of(outside), SOCK_DGRAM);
    const Address from = local_of(inside);
    ASSERT_EQ(connect(outside.get(), from.get(), from.length), 0);
    const auto start = steady_clock::now();
    while (!passes(inside, outside, 10) && seconds_since(start) < 20) {
    }
    ASSERT_TRUE(passes(outside, inside, kPatience));
    while (!receive(outside, 100).empty()) {
    }  // what was late
    isolation.cut(1h);
    EXPECT_FALSE(passes(inside, outside, kSilence));
    EXPECT_FALSE(passes(outside, inside, kSilence));
    isolation.join();
    EXPECT_TRUE(passes(inside, outside, kPatience));
    EXPECT_TRUE(passes(outside, inside, kPatience));
  });
}

TEST(CutTest, LeavesOtherGroupsAlone) {
  const PodGroup group;
  const PodGroup other;
  Isolation isolation = installed(group);
  const Isolation beside = installed(other);
  in_network([&] {
    other.enter();
    const Pair pair = make_pair(address("127.0.0.1"), SOCK_STREAM);
    isolation.cut(1h);
    EXPECT_TRUE(passes(pair.near, pair.far, kPatience));
    EXPECT_FALSE(beside.still_cut());
  });
}

TEST(CutTest, ReachesGroupsBelow) {
  const PodGroup group;
  Isolation isolation = installed(group);
  const std::filesystem::path below = group.path() / "below";
  std::filesystem::create_directory(below);
  in_network([&] {
    run("echo " + std::to_string(getpid()) + " > " + (below / "cgroup.procs").native());
    const Pair pair = make_pair(address("127.0.0.1"), SOCK_STREAM);
    EXPECT_TRUE(passes(pair.near, pair.far, kPatience));
    isolation.cut(1h);
    EXPECT_FALSE(passes(pair.near, pair.far, kSilence));
    isolation.join();
  });
  EXPECT_EQ(rmdir(below.c_str()), 0);
}

TEST(CutTest, StopsConnectionsBeingMade) {
  const PodGroup group;
  Isolation isolation = installed(group);
  in_network([&] {
    group.enter();
    const UniqueFd listener = bound_socket(address("127.0.0.1"), SOCK_STREAM);
    const Address at = local_of(listener);
    isolation.cut(1h);
    const UniqueFd client = make_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    EXPECT_EQ(connect(client.get(), at.get(), at.length), -1);
    EXPECT_EQ(errno, EINPROGRESS);
    EXPECT_EQ(receive(listener, kSilence), "");
    isolation.join();
    const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(passes(client, server, kPatience));
  });
}

TEST(CutTest, ProlongedWithoutAGap_IsStillCut) {
  const PodGroup group;
  Isolation isolation = installed(group);
  EXPECT_FALSE(isolation.still_cut());
  isolation.cut(1h);
  isolation.cut(2h);
  EXPECT_TRUE(isolation.still_cut());
  isolation.cut(100ms);
  const auto start = steady_clock::now();
  while (isolation.still_cut() && seconds_since(start) < 20) usleep(1000);
  EXPECT_GE(seconds_since(start), 0.1);
  EXPECT_LT(seconds_since(start), 20);
}

TEST(CutTest, ProlongedAfterAGap_IsNotStillCut_UntilJoinAndCut) {
  const PodGroup group;
  Isolation isolation = installed(group);
  isolation.cut(1ms);
  usleep(2000);
  isolation.cut(1h);
  EXPECT_FALSE(isolation.still_cut());
  isolation.join();
  isolation.cut(1h);
  EXPECT_TRUE(isolation.still_cut());
}

TEST(CutTest, AgentKilledInACut_PacketsFlowWhenItsTimeIsOver) {
  const PodGroup group;
  { const Isolation isolation = installed(group); }
  in_network([&] {
    group.enter();
    const Pair pair = make_pair(address("127.0.0.1"), SOCK_STREAM);
    const auto start = steady_clock::now();
    const pid_t agent = fork();
    if (agent == 0) {
      leave_pods();
      Result<Isolation> isolation = Isolation::find(group.path());
      if (!isolation) _exit(1);
      isolation->cut(500ms);
      raise(SIGKILL);
    }
    const int status = wait_status(agent);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    while (!passes(pair.near, pair.far, 5) && seconds_since(start) < 20) {
    }
    EXPECT_GE(seconds_since(start), 0.5);
    EXPECT_LT(seconds_since(start), 20);
  });
}

}  // namespace
}  // namespace fermata::isolation
