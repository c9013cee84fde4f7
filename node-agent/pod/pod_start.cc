#include "node-agent/pod/pod_start.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "common/first_to_go.h"
#include "common/unique_fd.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/child_process.h"
#include "node-agent/pod/model_process.h"

namespace fermata::pod {
namespace {

constexpr int kNamespaces =
    CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWTIME;
constexpr const char* kOomScore = "/proc/self/oom_score_adj";
constexpr const char* kClockOffsets = "/proc/self/timens_offsets";
constexpr long kNanosecondsPerSecond = 1'000'000'000;

/// Everything the children need, made before they are forked: they must not allocate.
struct Prepared {
  const InitRequest* request = nullptr;
  std::string clock_offsets;  ///< empty: none
  std::string oom_score;      ///< ours is higher while a checkpoint lacks memory
  UniqueFd group_procs;
  UniqueFd report;  ///< write end, close-on-exec
  UniqueFd config;  ///< memfd, at its begin
  UniqueFd parent;  ///< pidfd of us
  std::vector<char*> argv;
  std::vector<char*> environment;
  std::vector<std::string> environment_text;
  /// What podinit holds, in order from 0 on, and the report pipe last.
  std::unique_ptr<std::vector<int>> kept;
};

/// We are in a chroot: makes its folder the root of the new mount namespace, so that every path the
/// kernel tells of the pod's files begins there. The root of the namespace is above it, reached as
/// a working directory that lies outside of the root (chroot(2)).
int make_chroot_the_root() {
  const int root = open("/", O_PATH | O_DIRECTORY);
  if (root < 0 || chroot("/proc") != 0 || fchdir(root) != 0) return -1;
  for (int level = 0; level < 256; ++level) {
    if (chdir("..") != 0) return -1;
  }
  if (chroot(".") != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) return -1;
  // A copy of the folder's mounts, put on the folder: a mount point, as pivot_root(2) wants it.
  const auto tree = static_cast<int>(
      syscall(SYS_open_tree, root, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE));
  if (tree < 0 || syscall(SYS_move_mount, tree, "", root, "",
                          MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0) {
    return -1;
  }
  if (fchdir(tree) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return -1;
  const int result = umount2(".", MNT_DETACH);
  close(tree);
  close(root);
  return result != 0 || chdir("/") != 0 ? -1 : 0;
}

/// Detaches the mounts of the new namespace from the host's: what happens here stays here, while
/// mounts made on the host later (automounts) still appear.
int make_mounts_private() {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0) return 0;
  return errno == EINVAL ? make_chroot_the_root() : -1;  // "/" is no mount point
}

void make_mounts(int report) {
  if (make_mounts_private() != 0) fail_child(report, "making the pod's mounts private");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    fail_child(report, "mounting /proc in the pod");
  }
  if (mkdir("/dev/shm", 01777) != 0 && errno != EEXIST) fail_child(report, "making /dev/shm");
  if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") != 0) {
    fail_child(report, "mounting /dev/shm in the pod");
  }
}

void set_names(const InitRequest& request, int report) {
  const std::string& host = request.host_name;
  if (!host.empty() && sethostname(host.data(), host.size()) != 0) {
    fail_child(report, "setting the pod's host name to", host.c_str());
  }
  const std::string& domain = request.domain_name;
  if (!domain.empty() && setdomainname(domain.data(), domain.size()) != 0) {
    fail_child(report, "setting the pod's domain name to", domain.c_str());
  }
}

[[noreturn]] void become_podinit(const Prepared& prepared, const PodinitStart& start) {
  std::vector<int>& fds = *prepared.kept;
  const int report = static_cast<int>(fds.size()) - 1;
  if (keep_only(fds) != 0) fail_child(prepared.report.get(), "giving the pod its streams");
  if (fcntl(report, F_SETFD, FD_CLOEXEC) != 0) fail_child(report, "fcntl of the report pipe");
  if (become_user(start.user.uid, start.user.gid, start.user.groups) != 0) {
    fail_child(report, "becoming the user", start.user.name.c_str());
  }
  const char* folder = start.working_directory.c_str();
  if (chdir(folder) != 0) fail_child(report, folder);
  execve(start.podinit.c_str(), prepared.argv.data(), prepared.environment.data());
  fail_child(report,
             "starting podinit as the job's user (its file and the folders above it have to be "
             "accessible to that user):",
             start.podinit.c_str());
}

/// PID 1 of a pod that is to be rebuilt: it only waits. The engine makes it into podinit.
[[noreturn]] void wait_for_rebuild(int report, int parent) {
  umask(0);
  if (chdir("/") != 0) fail_child(report, "chdir to / in the pod");
  // Until the engine has attached, whose tracees end with it, nobody else would end this process.
  // The engine takes the wish back. Our parent may be gone already; getppid() does not tell that
  // here.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd ended{parent, POLLIN, 0};
  if (poll(&ended, 1, 0) != 0) _exit(1);
  ChildReport ready;
  ready.pid = getpid();
  if (write(report, &ready, sizeof ready) < 0) _exit(1);
  int none = 0;
  if (keep_only({&none, 0}) != 0) _exit(1);
  for (;;) pause();
}

[[noreturn]] void run_init(const Prepared& prepared) {
  const int report = prepared.report.get();
  // What the caller ignores, the job ignores; a rebuilt one has dispositions of its own.
  reset_signals(prepared.request->start != nullptr ? Ignored::kKept : Ignored::kReset);
  if (setsid() < 0) fail_child(report, "setsid in the pod");
  make_mounts(report);
  set_names(*prepared.request, report);
  if (prepared.request->start != nullptr) become_podinit(prepared, *prepared.request->start);
  wait_for_rebuild(report, prepared.parent.get());
}

/// Into a file of /proc/self; without allocating.
int write_own(const char* file, const std::string& text) {
  const int fd = open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const bool whole = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  return whole ? 0 : -1;
}

[[noreturn]] void run_go_between(const Prepared& prepared) {
  const int report = prepared.report.get();
  if (write(prepared.group_procs.get(), "0", 1) != 1) fail_child(report, "joining the pod's group");
  if (write_own(kOomScore, prepared.oom_score) != 0) fail_child(report, "setting", kOomScore);
  const ModelProcess* model = prepared.request->model;
  if (model != nullptr) {
    if (const char* failed = model->become_like()) {
      fail_child(report, "the pod's first process as the step's tasks are:", failed);
    }
  }
  if (unshare(kNamespaces) != 0) {
    fail_child(report,
               "making the pod's namespaces (PID, IPC, UTS, mount, time; Linux 5.6 or later)");
  }
  if (!prepared.clock_offsets.empty()) {
    if (write_own(kClockOffsets, prepared.clock_offsets) != 0) {
      fail_child(report, "setting the pod's clocks in", kClockOffsets);
    }
  }
  const pid_t init = raw_fork(CLONE_PARENT);
  if (init == 0) run_init(prepared);
  if (init < 0) fail_child(report, "forking the pod's PID 1");
  ChildReport born;
  born.pid = init;
  if (write(report, &born, sizeof born) < 0) _exit(1);
  _exit(0);
}

/// Offset that makes a clock read `wanted` in the pod, with 0 <= nsec < 10^9 as the kernel demands.
timespec offset_of(clockid_t clock, const timespec& wanted) {
  timespec now{};
  clock_gettime(clock, &now);
  timespec offset{wanted.tv_sec - now.tv_sec, wanted.tv_nsec - now.tv_nsec};
  while (offset.tv_nsec < 0) {
    offset.tv_nsec += kNanosecondsPerSecond;
    --offset.tv_sec;
  }
  while (offset.tv_nsec >= kNanosecondsPerSecond) {
    offset.tv_nsec -= kNanosecondsPerSecond;
    ++offset.tv_sec;
  }
  return offset;
}

/// The offsets count from the kernel's clocks, and we may be in a time namespace ourselves.
Result<std::string> clock_offsets(const PodClocks& clocks) {
  const UniqueFd own(open(kClockOffsets, O_RDONLY | O_CLOEXEC));
  char text[256] = {};
  long own_sec[2] = {};
  long own_nsec[2] = {};
  if (!own || read(own.get(), text, sizeof text - 1) < 0 ||
      sscanf(text, "monotonic %ld %ld boottime %ld %ld", &own_sec[0], &own_nsec[0], &own_sec[1],
             &own_nsec[1]) != 4) {
    return errno_failure(errno, "reading /proc/self/timens_offsets (Linux 5.6 or later)");
  }
  const auto wanted = [&](int which, const timespec& value) {
    return timespec{value.tv_sec + own_sec[which], value.tv_nsec + own_nsec[which]};
  };
  const timespec monotonic = offset_of(CLOCK_MONOTONIC, wanted(0, clocks.monotonic));
  const timespec boottime = offset_of(CLOCK_BOOTTIME, wanted(1, clocks.boottime));
  return fmt::format("monotonic {} {}\nboottime {} {}\n", monotonic.tv_sec, monotonic.tv_nsec,
                     boottime.tv_sec, boottime.tv_nsec);
}

Result<UniqueFd> config_memfd(const PodinitConfig& config) {
  UniqueFd fd(memfd_create("fermata-podinit", MFD_CLOEXEC));
  if (!fd) return errno_failure(errno, "memfd_create for podinit's configuration");
  const std::string text = encode(config);
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(fd.get(), text.data() + done, text.size() - done);
    if (wrote < 0) return errno_failure(errno, "writing podinit's configuration");
    done += static_cast<size_t>(wrote);
  }
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return errno_failure(errno, "lseek in a memfd");
  return fd;
}

void prepare_exec(const PodinitStart& start, Prepared& prepared) {
  // podinit's own environment is ours to choose: the user's would decide what libpmix does and
  // loads.
  prepared.environment_text = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + start.user.home,
                               "USER=" + start.user.name, "LOGNAME=" + start.user.name};
  for (std::string& entry : prepared.environment_text) prepared.environment.push_back(entry.data());
  prepared.environment.push_back(nullptr);
  static char name[] = "fermata-podinit";
  prepared.argv = {name, nullptr};
}

struct Outcome {
  pid_t init = -1;
  Status status;
};

/// Reads reports until every holder of the write end has closed it: by execve, by dying, or when
/// ready.
Outcome collect(int fd, const std::string& failed_without_words) {
  Outcome outcome;
  for (;;) {
    ChildReport report;
    const ssize_t got = read(fd, &report, sizeof report);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof report)) break;
    report.what[sizeof report.what - 1] = '\0';
    if (report.pid == 0) {
      outcome.status = status_of(report);
    } else if (report.pid != 1) {  // 1: the waiting PID 1 says that it stands
      outcome.init = report.pid;
    }
  }
  if (outcome.init < 0 && outcome.status) {
    outcome.status = {Code::kInternal, failed_without_words};
  }
  return outcome;
}

void wait_for_end(pid_t pid) {
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

Result<pid_t> start_init(const InitRequest& request) {
  Prepared prepared;
  prepared.request = &request;
  if (request.clocks) {
    FERMATA_ASSIGN(prepared.clock_offsets, clock_offsets(*request.clocks));
  }
  prepared.oom_score = usual_oom_score();
  FERMATA_ASSIGN(prepared.group_procs, open_group_procs(request.group));
  prepared.parent.reset(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!prepared.parent) return errno_failure(errno, "pidfd_open of ourselves");
  if (request.start != nullptr) {
    FERMATA_ASSIGN(prepared.config, config_memfd(request.start->config));
    prepare_exec(*request.start, prepared);
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_failure(errno, "pipe for the pod's start");
  const UniqueFd reports(ends[0]);
  prepared.report.reset(ends[1]);
  if (request.start != nullptr) {
    const PodinitStart& start = *request.start;
    prepared.kept = std::make_unique<std::vector<int>>(start.stdio.begin(), start.stdio.end());
    prepared.kept->push_back(prepared.config.get());
    prepared.kept->insert(prepared.kept->end(), start.rank_stdio.begin(), start.rank_stdio.end());
    prepared.kept->push_back(prepared.report.get());
  }

  const pid_t go_between = raw_fork(0);
  if (go_between == 0) run_go_between(prepared);
  if (go_between < 0) return errno_failure(errno, "fork for the pod's start");
  prepared.report.reset();
  Outcome outcome =
      collect(reports.get(), "the process that makes the pod died before it was done");
  wait_for_end(go_between);
  if (!outcome.status) {
    if (outcome.init > 0) {
      kill(outcome.init, SIGKILL);
      wait_for_end(outcome.init);
    }
    return Failure(std::move(outcome.status));
  }
  return outcome.init;
}

}  // namespace fermata::pod
