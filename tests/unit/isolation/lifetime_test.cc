// Programs are installed, found, stand beside those of others, and go with their group.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"

namespace fermata::isolation {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using testing::HasSubstr;

// Places on a group that hold a program of ours.
constexpr size_t kPrograms = 15;

std::set<uint32_t> maps_of(const std::vector<uint32_t>& programs) {
  std::set<uint32_t> maps;
  for (const uint32_t id : programs) {
    const UniqueFd fd(bpf_prog_get_fd_by_id(id));
    bpf_prog_info info{};
    std::array<uint32_t, 8> ids{};
    info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    info.nr_map_ids = ids.size();
    uint32_t length = sizeof(info);
    EXPECT_EQ(bpf_obj_get_info_by_fd(fd.get(), &info, &length), 0);
    maps.insert(ids.begin(), ids.begin() + info.nr_map_ids);
  }
  return maps;
}

template <typename GetFd>
bool gone(uint32_t id, GetFd get) {
  const UniqueFd fd(get(id));
  return !fd.valid() && errno == ENOENT;
}

// The kernel lets them go from a work queue of its own.
template <typename Ids, typename GetFd>
bool all_gone_soon(const Ids& ids, GetFd get) {
  const auto start = steady_clock::now();
  for (const uint32_t id : ids) {
    while (!gone(id, get)) {
      if (seconds_since(start) > 30) return false;
      usleep(1000);
    }
  }
  return true;
}

TEST(Lifetime, ThisKernelIsSupported) {
  const Status status = supported();
  EXPECT_TRUE(status) << status.message();
}

TEST(Lifetime, WithoutCapabilities_TheSentenceNamesThem) {
  const pid_t child = fork();
  if (child == 0) {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) _exit(2);
    const Status status = supported();
    const bool named =
        status.code() == Code::kPermission && status.message().find("CAP_BPF") != std::string::npos;
    if (!named) fprintf(stderr, "%s\n", status.message().c_str());
    _exit(named ? 0 : 1);
  }
  EXPECT_EQ(wait_status(child), 0);
}

TEST(Lifetime, GroupRemoved_NothingIsLeft) {
  PodGroup group;
  std::vector<uint32_t> programs;
  {
    const Result<Isolation> isolation = Isolation::install(group.path());
    ASSERT_TRUE(isolation) << isolation.error().message();
    programs = group.programs();
  }
  EXPECT_EQ(programs.size(), kPrograms);
  const std::set<uint32_t> maps = maps_of(programs);
  EXPECT_EQ(maps.size(), 2U);
  EXPECT_FALSE(gone(programs.front(), bpf_prog_get_fd_by_id));
  group.remove();
  EXPECT_TRUE(all_gone_soon(programs, bpf_prog_get_fd_by_id));
  EXPECT_TRUE(all_gone_soon(maps, bpf_map_get_fd_by_id));
}

TEST(Lifetime, GroupWithProcess_IsRefusedByName) {
  const PodGroup group;
  in_network([&] {
    group.enter();
    const Result<Isolation> isolation = Isolation::install(group.path());
    ASSERT_FALSE(isolation);
    EXPECT_EQ(isolation.error().code(), Code::kConflict);
    EXPECT_THAT(isolation.error().message(), HasSubstr(std::to_string(getpid())));
  });
  EXPECT_TRUE(group.programs().empty());
}

TEST(Lifetime, FindWithoutInstall_NotFound) {
  const PodGroup group;
  const Result<Isolation> isolation = Isolation::find(group.path());
  ASSERT_FALSE(isolation);
  EXPECT_EQ(isolation.error().code(), Code::kNotFound);
  EXPECT_EQ(Isolation::find(group.path() / "none").error().code(), Code::kNotFound);
}

TEST(Lifetime, Found_TakesACutOver) {
  const PodGroup group;
  {
    Result<Isolation> isolation = Isolation::install(group.path());
    ASSERT_TRUE(isolation) << isolation.error().message();
    isolation->cut(1h);
  }
  Result<Isolation> found = Isolation::find(group.path());
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_TRUE(found->still_cut());
  in_network([&] {
    group.enter();
    const Pair pair = make_pair(address("127.0.0.1"), SOCK_DGRAM);
    EXPECT_FALSE(passes(pair.near, pair.far, 100));
    found->join();
    EXPECT_TRUE(passes(pair.near, pair.far, 20'000));
  });
}

TEST(Lifetime, FoundAfterACutThatEnded_StartsAnew) {
  const PodGroup group;
  {
    Result<Isolation> isolation = Isolation::install(group.path());
    ASSERT_TRUE(isolation) << isolation.error().message();
    isolation->cut(1ns);
  }
  Result<Isolation> found = Isolation::find(group.path());
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_FALSE(found->still_cut());
  found->cut(1h);
  EXPECT_TRUE(found->still_cut());
}

TEST(Lifetime, InstalledAgain_ReplacesWhatADeadAgentLeft) {
  const PodGroup group;
  ASSERT_TRUE(Isolation::install(group.path()));
  const std::vector<uint32_t> before = group.programs();
  ASSERT_TRUE(Isolation::install(group.path()));
  EXPECT_EQ(group.programs().size(), kPrograms);
  EXPECT_TRUE(all_gone_soon(before, bpf_prog_get_fd_by_id));
}

// A program of somebody else's that lets every packet pass.
UniqueFd strangers_program() {
  const std::array code = {
      bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
      bpf_insn{BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET_EGRESS);
  return UniqueFd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SKB, "strangers", "GPL", code.data(),
                                code.size(), &options));
}

TEST(Lifetime, StandsBesideProgramsOfOthers) {
  const PodGroup group;
  const UniqueFd stranger = strangers_program();
  ASSERT_TRUE(stranger) << errno;
  const UniqueFd folder(open(group.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(
      bpf_prog_attach(stranger.get(), folder.get(), BPF_CGROUP_INET_EGRESS, BPF_F_ALLOW_MULTI), 0);
  // Twice: ours are replaced, that of another stays.
  ASSERT_TRUE(Isolation::install(group.path()));
  Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_TRUE(isolation) << isolation.error().message();
  EXPECT_EQ(group.programs().size(), kPrograms + 1);
  in_network([&] {
    group.enter();
    const Pair pair = make_pair(address("127.0.0.1"), SOCK_DGRAM);
    EXPECT_TRUE(passes(pair.near, pair.far, 20'000));
    isolation->cut(1h);
    EXPECT_FALSE(passes(pair.near, pair.far, 100));
  });
}

TEST(Lifetime, ProgramThatStandsAlone_IsNamedAsTheReason) {
  const PodGroup group;
  const UniqueFd stranger = strangers_program();
  const UniqueFd folder(open(group.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(bpf_prog_attach(stranger.get(), folder.get(), BPF_CGROUP_INET_EGRESS, 0), 0);
  const Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_FALSE(isolation);
  EXPECT_EQ(isolation.error().code(), Code::kConflict);
  EXPECT_THAT(isolation.error().message(), HasSubstr("fermata_egress"));
  EXPECT_EQ(group.programs().size(), 1U) << "none of ours is left";
}

}  // namespace
}  // namespace fermata::isolation
