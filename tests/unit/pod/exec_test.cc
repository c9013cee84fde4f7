#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::vector<std::string> kEnvironment{"PATH=/usr/bin:/bin", "WORD=given"};

class ExecTest : public PodFixture {
 protected:
  RunningPod start_sleeper(bool nobody = false) {
    PodSpec spec = script("echo ready; exec sleep 60");
    spec.working_directory = "/usr";
    if (nobody) spec = as_nobody(spec);
    RunningPod running = start(spec);
    read_until(running.out.get(), "ready\n");
    return running;
  }

  static Result<int> exec(const Pod& pod, const std::string& script,
                          const std::string& user = "root") {
    return exec_in_pod(pod.init_pid(), pod.group(), *credentials_of(user), {"sh", "-c", script},
                       kEnvironment);
  }

  static std::string file_in(const Pod& pod, const std::string& path) {
    return read_file(fmt::format("/proc/{}/root{}", pod.init_pid(), path));
  }
};

TEST_F(ExecTest, Exec_ReturnsTheCommandsStatus) {
  RunningPod running = start_sleeper();
  EXPECT_EQ(exec(running.pod, "exit 0"), 0);
  EXPECT_EQ(exec(running.pod, "exit 41"), 41);
  EXPECT_EQ(exec(running.pod, "kill -KILL $$"), 128 + SIGKILL);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_HasTheEnvironmentGivenAndNoOther) {
  setenv("FERMATA_TEST_SECRET", "x", 1);
  RunningPod running = start_sleeper();
  EXPECT_EQ(exec(running.pod, "[ $WORD = given ] && [ -z \"$FERMATA_TEST_SECRET\" ]"), 0);
  unsetenv("FERMATA_TEST_SECRET");
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_RunsInsideThePod) {
  RunningPod running = start_sleeper();
  ASSERT_EQ(exec(running.pod,
                 "(cat /proc/1/comm; pwd; cat /proc/self/cgroup; ls -l /proc/self/ns) > "
                 "/dev/shm/seen"),
            0);
  const std::string seen = file_in(running.pod, "/dev/shm/seen");
  EXPECT_THAT(seen, HasSubstr("fermata-podinit\n/usr\n"));
  EXPECT_THAT(seen, HasSubstr("fermata/" + to_string(running.pod.job()) + "\n"));
  for (const char* name : {"pid", "ipc", "uts", "mnt", "time"}) {
    const std::string link =
        fs::read_symlink(fmt::format("/proc/{}/ns/{}", running.pod.init_pid(), name));
    EXPECT_THAT(seen, HasSubstr(name + std::string(" -> ") + link));
  }
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_DropsToTheUser) {
  RunningPod running = start_sleeper(true);
  ASSERT_EQ(
      exec(running.pod, "(id -u; id -G; grep CapPrm /proc/self/status) > /dev/shm/seen", "nobody"),
      0);
  EXPECT_EQ(file_in(running.pod, "/dev/shm/seen"), "65534\n65534\nCapPrm:\t0000000000000000\n");
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_SaysAsAShell_WhenCommandIsMissing) {
  RunningPod running = start_sleeper();
  const Result<int> status = exec_in_pod(running.pod.init_pid(), running.pod.group(),
                                         *credentials_of("root"), {"no-such-program"}, {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kNotFound);
  EXPECT_EQ(status.error().message(), "no-such-program: command not found");
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_HandsSignalsToTheCommand) {
  RunningPod running = start_sleeper();
  const pid_t caller = fork();
  if (caller == 0) {
    const Result<int> status =
        exec(running.pod, "trap 'exit 23' TERM; touch /dev/shm/up; while :; do sleep 0.02; done");
    _exit(status.value_or(1));
  }
  EXPECT_TRUE(eventually(
      [&] { return fs::exists(fmt::format("/proc/{}/root/dev/shm/up", running.pod.init_pid())); }));
  ASSERT_EQ(kill(caller, SIGTERM), 0);
  int status = -1;
  ASSERT_EQ(waitpid(caller, &status, 0), caller);
  EXPECT_EQ(WEXITSTATUS(status), 23);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_EndsWithThePod) {
  RunningPod running = start_sleeper();
  std::thread killer([&] {
    EXPECT_TRUE(eventually([&] {
      return fs::exists(fmt::format("/proc/{}/root/dev/shm/up", running.pod.init_pid()));
    }));
    EXPECT_TRUE(running.pod.signal(SIGKILL));
  });
  EXPECT_EQ(exec(running.pod, "touch /dev/shm/up; sleep 60"), 128 + SIGKILL);
  killer.join();
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(ExecTest, Exec_IsRefused_WhenProcessIsNoPod) {
  RunningPod running = start_sleeper();
  const Result<int> status =
      exec_in_pod(getpid(), running.pod.group(), *credentials_of("root"), {"true"}, {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kGone);
  EXPECT_TRUE(running.pod.destroy());
}

}  // namespace
}  // namespace fermata::pod
