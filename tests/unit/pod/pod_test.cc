#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "node-agent/pod/cgroup.h"
#include "pod_fixture.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class PodTest : public PodFixture {};

pid_t only_rank_of(const Pod& pod) {
  pid_t found = -1;
  std::istringstream procs(read_file(pod.group() / "cgroup.procs"));
  for (pid_t pid = 0; procs >> pid;) {
    if (pid != pod.init_pid()) found = pid;
  }
  return found;
}

TEST_F(PodTest, Pod_EndsWithStatusOfItsRank) {
  EXPECT_EQ(run(spec_of({"true"})).status, 0);
  EXPECT_EQ(run(spec_of({"false"})).status, 1);
  EXPECT_EQ(run(script("exit 77")).status, 77);
}

TEST_F(PodTest, Pod_EndsWithHighestStatus_OfItsRanks) {
  PodSpec spec = script("exit $((10 + FERMATA_RANK % 2))");
  spec.ranks = 3;
  EXPECT_EQ(run(spec).status, 11);
}

TEST_F(PodTest, Pod_EndsWith128PlusSignal_WhenRankIsKilled) {
  EXPECT_EQ(run(script("kill -KILL $$")).status, 128 + SIGKILL);
  EXPECT_EQ(run(script("ulimit -c 0; kill -SEGV $$")).status, 128 + SIGSEGV);
}

TEST_F(PodTest, Rank_GoesOn_WhenAnotherOutsideOfMpiFails) {
  PodSpec spec = script("[ $FERMATA_RANK = 0 ] && exit 3; sleep 0.3; echo alive");
  spec.ranks = 2;
  const Finished finished = run(spec);
  EXPECT_EQ(finished.status, 3);
  EXPECT_EQ(finished.out, "alive\n");
}

TEST_F(PodTest, Ranks_KnowTheirPlaceAndJob) {
  PodSpec spec = script("echo $FERMATA_JOB_ID.$FERMATA_STEP_ID $FERMATA_RANK/$FERMATA_NTASKS");
  spec.ranks = 2;
  const std::string job = to_string(spec.job);
  const Finished finished = run(spec);
  EXPECT_THAT(finished.out, HasSubstr(job + " 0/2\n"));
  EXPECT_THAT(finished.out, HasSubstr(job + " 1/2\n"));
}

TEST_F(PodTest, OnlyRankZero_ReadsTheJobsInput) {
  PodSpec spec = script("cat; [ $FERMATA_RANK = 0 ] || readlink /proc/self/fd/0");
  spec.ranks = 2;
  const Finished finished = run(spec, "a line\n");
  EXPECT_THAT(finished.out, HasSubstr("a line\n"));
  EXPECT_THAT(finished.out, HasSubstr("/dev/null\n"));
}

TEST_F(PodTest, Pod_LivesUntilItsDaemonsHaveEnded) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished finished = run(script("(setsid sh -c 'sleep 0.5; echo daemon done') & exit 4"));
  EXPECT_EQ(finished.status, 4);
  EXPECT_EQ(finished.out, "daemon done\n");
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500));
}

TEST_F(PodTest, Podinit_ReapsOrphans) {
  // Twenty orphans end at once; none may stay as a zombie.
  const Finished finished =
      run(script("for i in $(seq 20); do (sh -c 'sleep 0.1 & exit 0'); done; sleep 0.6;"
                 "grep -l '^State:.Z' /proc/[0-9]*/status; echo checked"));
  EXPECT_EQ(finished.out, "checked\n");
}

TEST_F(PodTest, Pod_HandsSignalsToItsRanks) {
  RunningPod running =
      start(script("for s in INT TERM HUP QUIT USR1 USR2; do trap \"echo got $s\" $s; done;"
                   "trap 'exit 9' WINCH; echo ready; while :; do sleep 0.02; done"));
  read_until(running.out.get(), "ready\n");
  const std::vector<std::pair<int, std::string>> signals{{SIGINT, "INT"},   {SIGTERM, "TERM"},
                                                         {SIGHUP, "HUP"},   {SIGQUIT, "QUIT"},
                                                         {SIGUSR1, "USR1"}, {SIGUSR2, "USR2"}};
  for (const auto& [signo, name] : signals) {
    ASSERT_TRUE(running.pod.signal(signo));
    EXPECT_EQ(read_until(running.out.get(), "\n"), "got " + name + "\n");
  }
  ASSERT_TRUE(running.pod.signal(SIGWINCH));
  EXPECT_EQ(finish(std::move(running)).status, 9);
}

TEST_F(PodTest, Pod_StopsAndContinuesItsRanks) {
  RunningPod running = start(script("echo ready; while :; do sleep 0.02; done"));
  read_until(running.out.get(), "ready\n");
  const auto stopped = [&] {
    const std::string status = read_file(fmt::format("/proc/{}/status", only_rank_of(running.pod)));
    return status.find("State:\tT") != std::string::npos;
  };
  ASSERT_TRUE(running.pod.signal(SIGTSTP));
  // The shell's child may be listed in its place, and is of the same process group.
  EXPECT_TRUE(eventually(stopped));
  ASSERT_TRUE(running.pod.signal(SIGCONT));
  EXPECT_TRUE(eventually([&] { return !stopped(); }));
  ASSERT_TRUE(running.pod.signal(SIGTERM));
  EXPECT_EQ(finish(std::move(running)).status, 128 + SIGTERM);
}

TEST_F(PodTest, Signal_IsRefused_WhenPodinitDoesNotHandItOn) {
  RunningPod running = start(script("sleep 60"));
  EXPECT_EQ(running.pod.signal(SIGSEGV).code(), Code::kUsage);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, Command_IsNotFound_AsAShellSaysIt) {
  const Result<Pod> pod = Pod::launch(spec_of({"no-such-program"}));
  ASSERT_FALSE(pod);
  EXPECT_EQ(pod.error().code(), Code::kNotFound);
  EXPECT_EQ(pod.error().message(), "no-such-program: command not found");
}

TEST_F(PodTest, WorkingDirectory_IsNotFound) {
  PodSpec spec = spec_of({"true"});
  spec.working_directory = "/no/such/folder";
  const Result<Pod> pod = Pod::launch(spec);
  ASSERT_FALSE(pod);
  EXPECT_EQ(pod.error().code(), Code::kNotFound);
  EXPECT_THAT(pod.error().message(), HasSubstr("/no/such/folder"));
}

TEST_F(PodTest, Launch_LeavesNothing_WhenPodinitCannotStart) {
  setenv("FERMATA_PODINIT", "/no/such/podinit", 1);
  PodSpec spec = spec_of({"true"});
  const Result<Pod> pod = Pod::launch(spec);
  ASSERT_FALSE(pod);
  EXPECT_THAT(pod.error().message(), HasSubstr("/no/such/podinit"));
  EXPECT_FALSE(fs::exists(*cgroup2_mount() / "fermata" / to_string(spec.job)));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);  // no child was left
}

TEST_F(PodTest, Script_Runs_WithoutInterpreterLine) {
  const fs::path file = fs::path(program("fermata-podinit")).parent_path() / "script";
  UniqueFd fd(open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
  ASSERT_EQ(write(fd.get(), "echo $0 $1\n", 11), 11);
  fd.reset();  // a file that is written to cannot be executed
  const Finished finished = run(spec_of({file.native(), "argument"}));
  EXPECT_EQ(finished.out, file.native() + " argument\n");
}

TEST_F(PodTest, Rank_HasUserAndGroups_AndNoCapabilities) {
  const Finished finished =
      run(as_nobody(script("id -u; id -g; id -G; grep -h Cap /proc/self/status")));
  EXPECT_THAT(finished.out, HasSubstr("65534\n65534\n65534\n"));
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
    EXPECT_THAT(finished.out, HasSubstr(fmt::format("{}:\t0000000000000000\n", set)));
  }
}

TEST_F(PodTest, Podinit_IsOfTheUserAndDumpable) {
  RunningPod running = start(as_nobody(script("echo ready; sleep 60")));
  read_until(running.out.get(), "ready\n");
  const std::string status = read_file(fmt::format("/proc/{}/status", running.pod.init_pid()));
  EXPECT_THAT(status, HasSubstr("Uid:\t65534\t65534\t65534\t65534\n"));
  EXPECT_THAT(status, HasSubstr("CapPrm:\t0000000000000000\n"));
  // proc(5): files in /proc/PID belong to the user only as long as the process is dumpable.
  struct stat info {};
  ASSERT_EQ(stat(fmt::format("/proc/{}/maps", running.pod.init_pid()).c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 65534U);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, RootKeepsItsCapabilities) {
  const Finished finished = run(script("grep CapEff /proc/self/status"));
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr(finished.out));
}

TEST_F(PodTest, Pod_HasNamespacesOfItsOwn_ButTheHostsNetwork) {
  const Finished finished =
      run(script("for n in pid ipc uts mnt time net; do readlink /proc/self/ns/$n; done"));
  std::istringstream inside(finished.out);
  for (const char* name : {"pid", "ipc", "uts", "mnt", "time", "net"}) {
    std::string link;
    inside >> link;
    const std::string host = fs::read_symlink(fmt::format("/proc/self/ns/{}", name));
    if (std::string(name) == "net") {
      EXPECT_EQ(link, host);
    } else {
      EXPECT_NE(link, host);
      EXPECT_THAT(link, HasSubstr(name));
    }
  }
}

TEST_F(PodTest, Pod_HasPrivateSharedMemoryAndProc) {
  const std::string name = "fermata-" + to_string(next_job());
  const Finished finished = run(as_nobody(script(
      "echo text > /dev/shm/" + name + " && stat -c %a /dev/shm && ls -d /proc/[0-9]* | wc -l")));
  // PID 1, the shell, and the three processes of the pipeline.
  EXPECT_THAT(finished.out, testing::MatchesRegex("1777\n[2-5]\n"));
  EXPECT_FALSE(fs::exists("/dev/shm/" + name));
}

TEST_F(PodTest, Pod_KeepsTheHostName_OrTakesTheGiven) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  EXPECT_EQ(run(script("hostname")).out, std::string(host) + "\n");
  PodSpec spec = script("hostname");
  spec.host_name = "fermata-test-name";
  EXPECT_EQ(run(spec).out, "fermata-test-name\n");
  char after[256] = {};
  gethostname(after, sizeof after - 1);
  EXPECT_STREQ(host, after);
}

TEST_F(PodTest, Pod_HoldsNoOtherDescriptors) {
  // Left open across exec on purpose.
  const UniqueFd stray(open("/etc/passwd", O_RDONLY));
  RunningPod running = start(script("ls /proc/self/fd; echo ready; sleep 60"));
  // 3 is the folder that ls reads.
  EXPECT_EQ(read_until(running.out.get(), "ready\n"), "0\n1\n2\n3\nready\n");
  for (const auto& entry :
       fs::directory_iterator(fmt::format("/proc/{}/fd", running.pod.init_pid()))) {
    const std::string target = fs::read_symlink(entry.path());
    EXPECT_THAT(target, Not(HasSubstr("/etc/passwd")));
    EXPECT_THAT(target, Not(HasSubstr("memfd")));
    EXPECT_THAT(target, Not(HasSubstr("inotify")));
  }
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, Podinit_KeepsTheJobsStreams) {
  RunningPod running = start(script("exec <&- >&- ; echo ready >&2; sleep 60"));
  read_until(running.err.get(), "ready\n");
  for (int fd = 0; fd < 3; ++fd) {
    const std::string link =
        fs::read_symlink(fmt::format("/proc/{}/fd/{}", running.pod.init_pid(), fd));
    EXPECT_THAT(link, HasSubstr("pipe:"));
  }
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, Group_HoldsExactlyThePod) {
  RunningPod running = start(script("echo ready; exec sleep 60"));
  read_until(running.out.get(), "ready\n");
  EXPECT_EQ(*group_of_process(running.pod.init_pid()), running.pod.group());
  std::istringstream procs(read_file(running.pod.group() / "cgroup.procs"));
  std::set<pid_t> pids;
  for (pid_t pid = 0; procs >> pid;) pids.insert(pid);
  EXPECT_EQ(pids.size(), 2U);
  EXPECT_TRUE(pids.contains(running.pod.init_pid()));
  EXPECT_TRUE(running.pod.destroy());
  EXPECT_TRUE(running.pod.destroy()) << "a second time is fine";
}

TEST_F(PodTest, Destroy_KillsAFrozenPod) {
  RunningPod running = start(script("trap '' TERM INT; echo ready; while :; do sleep 0.02; done"));
  read_until(running.out.get(), "ready\n");
  const UniqueFd freeze(
      open((running.pod.group() / "cgroup.freeze").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(write(freeze.get(), "1", 1), 1);
  const pid_t rank = only_rank_of(running.pod);
  EXPECT_TRUE(running.pod.destroy());
  EXPECT_NE(kill(rank, 0), 0);
  ASSERT_TRUE(running.pod.reap().has_value());
  EXPECT_TRUE(WIFSIGNALED(*running.pod.reap()));
}

TEST_F(PodTest, Launch_IsRefused_WhileThePodOfTheJobRuns) {
  RunningPod running = start(script("sleep 60"));
  PodSpec again = script("true");
  again.job = running.pod.job();
  const Result<Pod> pod = Pod::launch(again);
  ASSERT_FALSE(pod);
  EXPECT_EQ(pod.error().code(), Code::kConflict);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, Pod_OutlivesItsAgent_AndIsAdopted) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const PodSpec spec = script("trap 'exit 5' USR1; while :; do sleep 0.02; done");
  const pid_t agent = fork();
  if (agent == 0) {
    const Result<Pod> pod = Pod::launch(spec);
    const pid_t init = pod ? pod->init_pid() : -1;
    if (write(ends[1], &init, sizeof init) < 0) _exit(1);
    for (;;) pause();
  }
  pid_t init = -1;
  ASSERT_EQ(read(ends[0], &init, sizeof init), static_cast<ssize_t>(sizeof init));
  ASSERT_GT(init, 0);
  ASSERT_EQ(kill(agent, SIGKILL), 0);
  ASSERT_EQ(waitpid(agent, nullptr, 0), agent);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));

  const fs::path group = *group_of_process(init);
  EXPECT_THAT(group.native(), HasSubstr("fermata/" + to_string(spec.job)));
  Result<Pod> pod = Pod::adopt(spec.job, init, group);
  ASSERT_TRUE(pod) << pod.error().message();
  EXPECT_FALSE(pod->reap().has_value());
  EXPECT_TRUE(pod->destroy());
  EXPECT_FALSE(fs::exists(group));
  close(ends[0]);
  close(ends[1]);
}

TEST_F(PodTest, Adopt_TellsHowThePodEnds_ThoughItIsNotOurChild) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const fs::path ready = fs::temp_directory_path() / fmt::format("fermata-adopt-{}", getpid());
  const PodSpec spec = script(
      fmt::format("trap 'exit 5' USR1; : > {}; while :; do sleep 0.02; done", ready.native()));
  const pid_t agent = fork();
  if (agent == 0) {
    const Result<Pod> pod = Pod::launch(spec);
    const pid_t init = pod ? pod->init_pid() : -1;
    if (write(ends[1], &init, sizeof init) < 0) _exit(1);
    for (;;) pause();
  }
  pid_t init = -1;
  ASSERT_EQ(read(ends[0], &init, sizeof init), static_cast<ssize_t>(sizeof init));
  ASSERT_EQ(kill(agent, SIGKILL), 0);
  ASSERT_EQ(waitpid(agent, nullptr, 0), agent);
  Result<Pod> pod = Pod::adopt(spec.job, init, *group_of_process(init));
  ASSERT_TRUE(pod) << pod.error().message();
  EXPECT_TRUE(eventually([&] { return fs::exists(ready); })) << "the trap is set";
  fs::remove(ready);
  EXPECT_TRUE(pod->signal(SIGUSR1));
  pollfd ended{pod->init_pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 30'000), 1);
  std::optional<int> status;
  EXPECT_TRUE(eventually([&] { return (status = pod->reap()).has_value(); }));
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status)) << *status;
  EXPECT_EQ(WEXITSTATUS(*status), 5);
  EXPECT_TRUE(pod->destroy());
  close(ends[0]);
  close(ends[1]);
}

TEST_F(PodTest, Adopt_IsRefused_WhenTheNumberIsAnotherProcesss) {
  RunningPod running = start(script("sleep 60"));
  const Result<Pod> pod = Pod::adopt(running.pod.job(), getpid(), running.pod.group());
  ASSERT_FALSE(pod);
  EXPECT_EQ(pod.error().code(), Code::kGone);
  EXPECT_TRUE(running.pod.destroy());
}

TEST_F(PodTest, Launch_Works_WhileThreadsAllocateAndHoldLocks) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) std::string(4096, 'x').append("y");
    });
  }
  for (int i = 0; i < 10; ++i) EXPECT_EQ(run(as_nobody(script("exit 6"))).status, 6);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST(CgroupTest, Mount_IsTheV2Tree) {
  const Result<fs::path> mount = cgroup2_mount();
  ASSERT_TRUE(mount) << mount.error().message();
  EXPECT_TRUE(fs::exists(*mount / "cgroup.procs"));
  EXPECT_TRUE(fs::exists(*mount / "cgroup.controllers"));
}

TEST(CapabilitiesTest, Missing_AreNamed_WhenDropped) {
  ASSERT_EQ(missing_capabilities(), "");
  const pid_t child = fork();
  if (child == 0) {
    const bool dropped = setresuid(65534, 65534, 65534) == 0;
    const std::string missing = missing_capabilities();
    _exit(dropped && missing.starts_with("CAP_SYS_ADMIN, CAP_SYS_PTRACE, ") ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace fermata::pod
