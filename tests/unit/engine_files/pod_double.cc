#include "pod_double.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

std::string slurp(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void add_children(pid_t pid, std::vector<pid_t>& all) {
  std::ifstream in(fmt::format("/proc/{}/task/{}/children", pid, pid));
  for (pid_t child = 0; in >> child;) {
    all.push_back(child);
    add_children(child, all);
  }
}

std::vector<int> descriptors_of(pid_t pid) {
  std::vector<int> fds;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
    const int fd = std::stoi(entry.path().filename());
    if (fd > 2) fds.push_back(fd);
  }
  std::sort(fds.begin(), fds.end());
  return fds;
}

// What a child tells: memory shared with it.
std::atomic<int>* shared_flag() {
  return static_cast<std::atomic<int>*>(::mmap(nullptr, sizeof(std::atomic<int>),
                                               PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                                               -1, 0));
}

}  // namespace

class CaptureDouble : public CaptureContext {
 public:
  explicit CaptureDouble(PodDouble& pod) : pod_(pod) {}
  Result<Remote*> remote(int vpid) override { return &pod_.remote_of(vpid); }
  int vpid_of(pid_t host_pid) const override {
    const auto found = std::find(pod_.pids_.begin(), pod_.pids_.end(), host_pid);
    return found == pod_.pids_.end() ? 0 : static_cast<int>(found - pod_.pids_.begin()) + 1;
  }
  uint32_t file_at(int vpid, int fd) const override {
    for (const image::Process& process : pod_.objects_.processes()) {
      if (process.vpid() != vpid) continue;
      for (const image::Fd& one : process.fds()) {
        if (one.fd() == fd) return one.file_id();
      }
    }
    return 0;
  }
  Result<uint32_t> shared_object(const FileProbe& probe) override {
    const auto key = std::make_pair(probe.status.st_dev, probe.status.st_ino);
    const auto [place, first] = ids_.try_emplace(key, static_cast<uint32_t>(ids_.size() + 1));
    if (first)
      pod_.shared_[place->second] = slurp(fmt::format("/proc/self/fd/{}", probe.dup.get()));
    return place->second;
  }
  OutsideConnections& outside() override { return pod_.outside_; }

 private:
  PodDouble& pod_;
  std::map<std::pair<dev_t, ino_t>, uint32_t> ids_;
};

class RebuildDouble : public RebuildContext {
 public:
  explicit RebuildDouble(PodDouble& pod) : pod_(pod) {}
  Result<Remote*> remote(int vpid) override {
    if (vpid < 1 || vpid > static_cast<int>(pod_.rebuilt_.size())) {
      return failure(Code::kDamaged, "no such process");
    }
    return pod_.rebuilt_[static_cast<size_t>(vpid - 1)].get();
  }
  int created(uint32_t file_id) const override {
    const auto found = pod_.made_.find(file_id);
    return found == pod_.made_.end() ? -1 : found->second.get();
  }
  Result<UniqueFd> open_in_pod(int vpid, const std::string& path, int flags, mode_t mode) override {
    FERMATA_ASSIGN(Remote * process, remote(vpid));
    FERMATA_ASSIGN(const uint64_t address, process->put_string(path));
    FERMATA_ASSIGN(const long fd, process->call("open", SYS_openat,
                                                {static_cast<uint64_t>(AT_FDCWD), address,
                                                 static_cast<uint64_t>(flags), mode}));
    FERMATA_ASSIGN(UniqueFd ours, process->take_fd(static_cast<int>(fd)));
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   process->call("close", SYS_close, {static_cast<uint64_t>(fd)}));
    return ours;
  }
  Result<int> object_fd(uint32_t object_id) override {
    UniqueFd& fd = pod_.object_fds_[object_id];
    if (!fd) {
      fd.reset(::memfd_create("object", MFD_CLOEXEC));
      const std::string& bytes = pod_.shared_[object_id];
      if (::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
        return errno_failure(errno, "object");
      }
    }
    return fd.get();
  }
  int stdio_fd(int stream) const override { return stream; }
  NetworkMap& network() override { return *pod_.network_; }

 private:
  PodDouble& pod_;
};

void PodDouble::join_group() const {
  if (!group_.empty()) std::ofstream(group_ / "cgroup.procs") << "0";
}

PodDouble::PodDouble(const std::function<void()>& program, std::filesystem::path group)
    : group_(std::move(group)) {
  auto* ready = shared_flag();
  const pid_t child = ::fork();
  if (child == 0) {
    join_group();
    ::close_range(3, ~0U, 0);
    program();
    ready->store(1);
    for (;;) ::pause();
  }
  while (ready->load() == 0 && ::waitpid(child, nullptr, WNOHANG) == 0) ::usleep(500);
  ::munmap(ready, sizeof *ready);
  pids_.push_back(child);
  add_children(child, pids_);
}

PodDouble::~PodDouble() { kill(); }

Status PodDouble::stop() {
  for (const pid_t pid : pids_) {
    FERMATA_TRY(seize(pid, PTRACE_O_TRACESYSGOOD));
    FERMATA_TRY(interrupt(pid));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const Stop stop, wait_stop(pid));
    FERMATA_ASSIGN_STATUS(const GeneralRegisters registers, get_registers(pid));
    FERMATA_ASSIGN_STATUS(const uint64_t mask, get_signal_mask(pid));
    Stopped one;
    FERMATA_ASSIGN_STATUS(one.site, InjectionSite::find(pid));
    FERMATA_ASSIGN_STATUS(const ProcStatus status, read_status(pid, pid));
    FERMATA_ASSIGN_STATUS(one.remote,
                          CaptureRemote::open(pid, pid, one.site, registers, mask, status));
    FERMATA_TRY(one.remote->ensure_scratch());
    stopped_.push_back(std::move(one));
  }
  return Status::ok();
}

Status PodDouble::capture() {
  // What was rebuilt stands still as it is.
  if (rebuilt_.empty()) FERMATA_TRY(stop());
  return capture_files();
}

Status PodDouble::capture_files() {
  objects_.Clear();
  outside_.connections.clear();
  outside_.sockets.clear();
  CaptureDouble context(*this);
  const auto kinds = make_file_kinds();
  struct Known {
    pid_t pid;
    int fd;
    uint32_t id;
  };
  std::vector<Known> known;
  for (size_t i = 0; i < pids_.size(); ++i) {
    const pid_t pid = pids_[i];
    image::Process& process = *objects_.add_processes();
    process.set_vpid(static_cast<int>(i) + 1);
    for (const int fd : descriptors_of(pid)) {
      uint32_t id = 0;
      for (const Known& one : known) {
        if (::syscall(SYS_kcmp, pid, one.pid, KCMP_FILE, fd, one.fd) == 0) id = one.id;
      }
      image::Fd& entry = *process.add_fds();
      entry.set_fd(fd);
      if (id == 0) {
        id = static_cast<uint32_t>(known.size() + 1);
        known.push_back({pid, fd, id});
        FileProbe probe;
        probe.pid = pid;
        probe.vpid = process.vpid();
        probe.fd = fd;
        probe.link = std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", pid, fd));
        probe.fdinfo = slurp(fmt::format("/proc/{}/fdinfo/{}", pid, fd));
        FERMATA_ASSIGN_STATUS(probe.dup, remote_of(process.vpid()).take_fd(fd));
        ::fstat(probe.dup.get(), &probe.status);
        image::File& file = *objects_.add_files();
        file.set_id(id);
        file.set_flags(static_cast<uint32_t>(::fcntl(probe.dup.get(), F_GETFL)));
        file.set_position(std::stoll(*fdinfo_field(probe.fdinfo, "pos")));
        file.set_creator(process.vpid());
        file.set_creator_fd(fd);
        for (const auto& kind : kinds) {
          if (!kind->matches(probe)) continue;
          FERMATA_TRY(kind->capture(probe, context, file));
          break;
        }
      }
      entry.set_file_id(id);
    }
  }
  for (const auto& kind : kinds) FERMATA_TRY(kind->finish_capture(context, objects_));
  return Status::ok();
}

void PodDouble::resume() {
  std::vector<pid_t> dead;  // kill() reaps
  for (size_t i = 0; i < stopped_.size(); ++i) {
    (void)stopped_[i].remote->remove_scratch();
    (void)detach(pids_[i], dead);
  }
  stopped_.clear();
}

void PodDouble::kill() {
  made_.clear();
  outside_.sockets.clear();
  stopped_.clear();
  rebuilt_.clear();
  for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
  for (const pid_t pid : pids_) {
    while (::waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  pids_.clear();
}

Status PodDouble::build() {
  kill();
  auto* ready = shared_flag();
  for (int i = 0; i < objects_.processes_size(); ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      join_group();
      ready->store(i + 1);
      for (;;) ::pause();
    }
    while (ready->load() != i + 1) ::usleep(100);
    pids_.push_back(pid);
    FERMATA_ASSIGN_STATUS(auto remote, RebuildRemote::strip(pid, 0x200000000000));
    rebuilt_.push_back(std::move(remote));
  }
  ::munmap(ready, sizeof *ready);
  RebuildDouble context(*this);
  network_ = std::make_unique<NetworkMap>(network_request_);
  kinds_ = make_file_kinds();
  const auto owner = [&](const image::File& file) {
    return std::find_if(kinds_.begin(), kinds_.end(),
                        [&](const auto& kind) { return kind->owns(file); });
  };
  for (const auto& kind : kinds_) FERMATA_TRY(kind->start_rebuild(objects_, context));
  for (const image::File& file : objects_.files()) {
    const auto kind = owner(file);
    if (kind == kinds_.end())
      return {Code::kInternal, "nobody rebuilds " + file.ShortDebugString()};
    FERMATA_ASSIGN_STATUS(made_[file.id()], (*kind)->create(file, context));
  }
  for (const auto& kind : kinds_) FERMATA_TRY(kind->bind(context));
  for (const image::Process& process : objects_.processes()) {
    for (const image::Fd& fd : process.fds()) {
      FERMATA_ASSIGN_STATUS(Remote * remote, context.remote(process.vpid()));
      FERMATA_ASSIGN_STATUS([[maybe_unused]] const int at,
                            remote->give_fd(context.created(fd.file_id()), fd.fd(), false));
    }
  }
  for (const image::File& file : objects_.files())
    FERMATA_TRY((*owner(file))->connect(file, context));
  FERMATA_TRY(network_->exchange());
  for (const auto& kind : kinds_) FERMATA_TRY(kind->connect_outside(context));
  return Status::ok();
}

Status PodDouble::begin() {
  RebuildDouble context(*this);
  for (const auto& kind : kinds_) FERMATA_TRY(kind->begin(context));
  made_.clear();
  return Status::ok();
}

Status PodDouble::rebuild() {
  FERMATA_TRY(build());
  return begin();
}

Status PodDouble::cut_and_rebuild() {
  FERMATA_TRY(capture());
  return rebuild();
}

Remote& PodDouble::remote_of(int vpid) {
  const auto at = static_cast<size_t>(vpid - 1);
  if (!rebuilt_.empty()) return *rebuilt_.at(at);
  return *stopped_.at(at).remote;
}

Remote& PodDouble::stopped_process(int vpid) {
  return *stopped_.at(static_cast<size_t>(vpid - 1)).remote;
}

Remote& PodDouble::rebuilt_process(int vpid) { return *rebuilt_.at(static_cast<size_t>(vpid - 1)); }

UniqueFd PodDouble::fd(int vpid, int fd) {
  const UniqueFd pidfd(
      static_cast<int>(::syscall(SYS_pidfd_open, pids_.at(static_cast<size_t>(vpid - 1)), 0)));
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)));
}

}  // namespace fermata::engine
