#include "tests/unit/isolation/pod_group.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "common/file_util.h"
#include "common/unique_fd.h"
#include "node-agent/pod/cgroup.h"

namespace fermata::isolation {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

const fs::path& first_group() {
  static const fs::path group_here = [] {
    Result<fs::path> group = pod::group_of_process(getpid());
    if (!group) throw std::runtime_error(group.error().message());
    return *group;
  }();
  return group_here;
}

void enter_group(const fs::path& group) {
  const UniqueFd procs(open((group / "cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(write_all(procs.get(), "0", group.native())) << group;
}

}  // namespace

PodGroup::PodGroup() {
  static int count = 0;
  path_ = first_group() /
          ("isolation-test." + std::to_string(getpid()) + "." + std::to_string(++count));
  fs::create_directory(path_);
}

void PodGroup::remove() {
  if (path_.empty()) return;
  const auto start = steady_clock::now();
  // A process that was waited for may still stand in its group for an instant.
  while (rmdir(path_.c_str()) != 0 && errno == EBUSY && seconds_since(start) < 10) usleep(1000);
  EXPECT_FALSE(fs::exists(path_)) << path_;
  path_.clear();
}

void PodGroup::enter() const { enter_group(path_); }

void leave_pods() { enter_group(first_group()); }

std::vector<uint32_t> PodGroup::programs() const {
  const UniqueFd group(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::vector<uint32_t> all;
  for (int type = 0; type < __MAX_BPF_ATTACH_TYPE; ++type) {
    std::array<uint32_t, 64> ids{};
    uint32_t count = ids.size();
    const auto place = static_cast<bpf_attach_type>(type);
    if (bpf_prog_query(group.get(), place, 0, nullptr, ids.data(), &count) != 0) continue;
    all.insert(all.end(), ids.begin(), ids.begin() + count);
  }
  return all;
}

void run(const std::string& command) {
  // NOLINTNEXTLINE(cert-env33-c): commands of the tests' own
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

void in_network(const std::function<void()>& body) {
  fflush(stdout);
  first_group();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (unshare(CLONE_NEWNET) != 0) {
      perror("unshare");
      _exit(1);
    }
    run("ip link set lo up && for i in 1 2 3 4; do ip addr add 10.77.0.$i/32 dev lo && "
        "ip addr add fd77::$i/128 dev lo nodad || exit 1; done");
    // A worker of the kernel's makes the routes of IPv6's, in its own time (addrconf_dad_work).
    run("for i in 1 2 3 4; do timeout 60 sh -c \"until ip -6 route get fd77::$i >/dev/null 2>&1; "
        "do sleep 0.01; done\" || exit 1; done");
    if (!testing::Test::HasFailure()) body();
    leave_pods();
    fflush(stdout);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  EXPECT_EQ(wait_status(child), 0) << "see above";
}

int wait_status(pid_t pid) {
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

double slowdown() {
  const char* factor = getenv("FERMATA_TEST_SLOWDOWN");
  return factor == nullptr ? 1 : std::max(1.0, strtod(factor, nullptr));
}

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

}  // namespace fermata::isolation
