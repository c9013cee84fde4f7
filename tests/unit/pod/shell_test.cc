// Pod::make_shell: an empty pod for the engine to rebuild into.
#include <fmt/format.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <sstream>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ShellTest : public PodFixture {
 protected:
  static Result<Pod> make(const PodClocks& clocks) {
    return Pod::make_shell(next_job(), "shell-host", "shell-domain", clocks);
  }

  /// What `script` writes to $out inside the pod.
  static std::string ask(const Pod& pod, const std::string& script) {
    const std::string file = "/dev/shm/answer";
    const Result<int> status =
        exec_in_pod(pod.init_pid(), pod.group(), *credentials_of("root"),
                    {"/bin/sh", "-c", "(" + script + ") > " + file}, {"PATH=/usr/bin:/bin"});
    EXPECT_TRUE(status) << status.error().message();
    return read_file(fmt::format("/proc/{}/root{}", pod.init_pid(), file));
  }
};

PodClocks now() {
  PodClocks clocks;
  clock_gettime(CLOCK_MONOTONIC, &clocks.monotonic);
  clock_gettime(CLOCK_BOOTTIME, &clocks.boottime);
  return clocks;
}

std::string status_line(pid_t pid, const std::string& name) {
  std::istringstream status(read_file(fmt::format("/proc/{}/status", pid)));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":\t")) return line.substr(name.size() + 2);
  }
  return {};
}

TEST_F(ShellTest, Shell_IsAPlainRootProcess) {
  Result<Pod> pod = make(now());
  ASSERT_TRUE(pod) << pod.error().message();
  const pid_t init = pod->init_pid();
  EXPECT_TRUE(eventually([&] { return status_line(init, "State").starts_with("S"); }));
  EXPECT_EQ(status_line(init, "Threads"), "1");
  EXPECT_EQ(status_line(init, "Umask"), "0000");
  EXPECT_EQ(status_line(init, "Uid"), "0\t0\t0\t0");
  for (const char* set : {"SigBlk", "SigIgn", "SigCgt"}) {
    EXPECT_EQ(status_line(init, set), "0000000000000000") << set;
  }
  EXPECT_TRUE(fs::is_empty(fmt::format("/proc/{}/fd", init)));
  EXPECT_TRUE(fs::equivalent(fmt::format("/proc/{}/cwd", init), "/"));
  EXPECT_EQ(getsid(init), init);
  EXPECT_THAT(status_line(init, "NSpid"), HasSubstr("\t1"));
  EXPECT_TRUE(pod->destroy());
}

TEST_F(ShellTest, Shell_HasTheNamesAndMountsOfAPod) {
  Result<Pod> pod = make(now());
  ASSERT_TRUE(pod) << pod.error().message();
  EXPECT_EQ(ask(*pod, "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"),
            "shell-host\nshell-domain\n");
  EXPECT_EQ(ask(*pod, "ls /dev/shm; stat -c %a /dev/shm"), "answer\n1777\n");
  EXPECT_EQ(ask(*pod, "ls -d /proc/[0-9]*").substr(0, 8), "/proc/1\n");
  EXPECT_TRUE(pod->destroy());
}

/// Seconds of CLOCK_BOOTTIME in the pod: /proc/uptime follows the reader's time namespace
/// (since 5.5).
double uptime_in(const std::string& text) { return std::stod(text.substr(0, text.find(' '))); }

TEST_F(ShellTest, Clocks_ReadWhatWasAsked_LaterOrEarlierThanTheHosts) {
  for (const long shift : {-1L, 100'000L}) {
    PodClocks clocks = now();
    // Nanoseconds on either side of the host's, so that the offset has to be brought into
    // 0..999999999.
    clocks.monotonic.tv_sec += 2 * shift;
    clocks.monotonic.tv_nsec = shift < 0 ? 999'999'999 : 1;
    clocks.boottime.tv_sec += shift;
    clocks.boottime.tv_nsec = clocks.monotonic.tv_nsec;
    Result<Pod> pod = make(clocks);
    ASSERT_TRUE(pod) << pod.error().message();
    const double boottime = static_cast<double>(clocks.boottime.tv_sec) +
                            static_cast<double>(clocks.boottime.tv_nsec) / 1e9;
    EXPECT_NEAR(uptime_in(ask(*pod, "cat /proc/uptime")), boottime, 5.0);
    long sec = 0;
    long nsec = 0;
    const std::string offsets = read_file(fmt::format("/proc/{}/timens_offsets", pod->init_pid()));
    ASSERT_EQ(sscanf(offsets.c_str(), "monotonic %ld %ld", &sec, &nsec), 2);
    EXPECT_NEAR(static_cast<double>(sec) + static_cast<double>(nsec) / 1e9,
                static_cast<double>(2 * shift), 1.5);
    EXPECT_GE(nsec, 0);
    EXPECT_TRUE(pod->destroy());
  }
}

TEST_F(ShellTest, Shell_IsRefused_WhenAClockCannotBeSet) {
  PodClocks clocks = now();
  clocks.monotonic.tv_sec = -1'000'000'000'000;
  const JobStep job = next_job();
  const Result<Pod> pod = Pod::make_shell(job, "", "", clocks);
  ASSERT_FALSE(pod);
  EXPECT_THAT(pod.error().message(), HasSubstr("timens_offsets"));
  EXPECT_FALSE(fs::exists(*cgroup2_mount() / "fermata" / to_string(job)));
}

}  // namespace
}  // namespace fermata::pod
