#include "node-agent/engine/capture.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "common/file_util.h"
#include "node-agent/engine/address_space.h"
#include "node-agent/engine/aio.h"
#include "node-agent/engine/file_table.h"
#include "node-agent/engine/frozen_pod.h"
#include "node-agent/engine/identity.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/obstacles.h"
#include "node-agent/engine/process_state.h"
#include "node-agent/engine/requirements.h"
#include "node-agent/engine/shm_tree.h"
#include "node-agent/engine/signals.h"
#include "node-agent/engine/thread_state.h"
#include "node-agent/engine/timers.h"
#include "node-agent/engine/twin.h"

namespace fermata::engine {
namespace {

/// One capture of held processes; what it finds goes to `objects` and `memory`.
class Capture : public CaptureContext {
 public:
  /// `unfound`: null, unless twins are to be begun on the way.
  Capture(pid_t init, int rank_streams, std::vector<HeldProcess>& held, OutsideConnections& outside,
          PageFinder& finder, image::PodObjects& objects, std::vector<MemoryRegion>& memory,
          std::vector<UnfoundPages>* unfound)
      : init_(init),
        held_(held),
        outside_(outside),
        finder_(finder),
        search_(finder, unfound),
        twins_(unfound != nullptr),
        objects_(objects),
        memory_(memory),
        recorder_(objects, memory),
        files_(init, rank_streams, *this, objects) {
    for (const HeldProcess& process : held_) {
      vpids_[process.pid] = process.vpid;
      for (const HeldThread& thread : process.threads) vtids_[thread.tid] = thread.status.vtid;
    }
  }

  Status run() {
    if (held_.empty() || held_.front().pid != init_) {
      return {Code::kInternal, "PID 1 of the pod is not among its processes"};
    }
    // Calls are made in one process, and another might be making its twin in the same memory.
    FERMATA_TRY(refuse_shared_tables());
    // Before anything is looked at: completions write to memory, and count in eventfds.
    for (HeldProcess& process : held_) FERMATA_TRY(note(drain_aio(process)));
    for (size_t i = 0; i < held_.size(); ++i) objects_.add_processes();
    // What makes a twin, or has its pages looked for, comes first; PID 1 has little memory and much
    // else, and is looked at meanwhile.
    for (size_t i = 1; i < held_.size(); ++i) FERMATA_TRY(note(capture_one(i)));
    FERMATA_ASSIGN_STATUS(*objects_.mutable_needs(), requirements_of_this_machine());
    FERMATA_TRY(capture_pod());
    FERMATA_TRY(note(capture_one(0)));
    for (size_t i = 0; i < held_.size(); ++i) FERMATA_TRY(note(capture_files(i)));
    FERMATA_TRY(capture_clocks());
    FERMATA_TRY(files_.finish(obstacles_));
    FERMATA_TRY(note(capture_shm_tree(init_, recorder_, objects_)));
    FERMATA_TRY(note(search_.finish(memory_)));
    return obstacles_.sum();
  }

  Result<Remote*> remote(int vpid) override {
    for (HeldProcess& process : held_) {
      if (process.vpid == vpid && !process.zombie) {
        FERMATA_ASSIGN(CaptureRemote * found, remote_of(process, process.leader()));
        return found;
      }
    }
    return failure(Code::kInternal, fmt::format("there is no process {} in the pod", vpid));
  }

  int vpid_of(pid_t host_pid) const override {
    const auto found = vpids_.find(host_pid);
    return found == vpids_.end() ? 0 : found->second;
  }

  uint32_t file_at(int vpid, int fd) const override { return files_.file_at(vpid, fd); }

  OutsideConnections& outside() override { return outside_; }

  Result<uint32_t> shared_object(const FileProbe& probe) override {
    // A description of its own, so that reading it later moves no offset of the program's.
    const std::string path = fmt::format("/proc/self/fd/{}", probe.dup.get());
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return errno_failure(errno, fmt::format("opening {}", probe.describe()));
    return recorder_.record(std::move(file), probe.link, SharedObjectRecorder::kind_of(probe.link));
  }

 private:
  Status note(const Status& status) { return obstacles_.note(status); }

  Status capture_pod() {
    image::PodState& pod = *objects_.mutable_pod();
    FERMATA_ASSIGN_STATUS(Remote * init, remote(1));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long named,
                          init->call("uname", SYS_uname, {init->argument_address()}));
    utsname names{};
    FERMATA_TRY(init->get(init->argument_address(), names));
    FERMATA_ASSIGN_STATUS(const std::string last_pid,
                          read_in_pod(*init, "/proc/sys/kernel/ns_last_pid"));
    pod.set_last_pid(std::atoi(last_pid.c_str()));
    FERMATA_TRY(refuse_system_v(*init));
    pod.set_host_name(names.nodename);
    pod.set_domain_name(names.domainname);
    return Status::ok();
  }

  /// After what timers have left was read: by these clocks none then is due too early.
  Status capture_clocks() {
    image::PodState& pod = *objects_.mutable_pod();
    timespec monotonic{};
    timespec boottime{};
    timespec realtime{};
    ::clock_gettime(CLOCK_MONOTONIC, &monotonic);
    ::clock_gettime(CLOCK_BOOTTIME, &boottime);
    ::clock_gettime(CLOCK_REALTIME, &realtime);
    FERMATA_ASSIGN_STATUS(const std::string offsets,
                          read_file(fmt::format("/proc/{}/timens_offsets", init_)));
    add_offset(offsets, "monotonic", monotonic);
    add_offset(offsets, "boottime", boottime);
    const auto put = [](const timespec& from, image::Timespec& to) {
      to.set_sec(from.tv_sec);
      to.set_nsec(from.tv_nsec);
    };
    put(monotonic, *pod.mutable_monotonic());
    put(boottime, *pod.mutable_boottime());
    put(realtime, *pod.mutable_realtime());
    return Status::ok();
  }

  /// The beginning of a file that shows the reader's own namespaces: PID 1 has to read it. Empty
  /// when it is not there.
  static Result<std::string> read_in_pod(Remote& init, const char* path) {
    const uint64_t args = init.argument_address();
    constexpr size_t kTextAt = 4096;
    FERMATA_ASSIGN(const uint64_t name, init.put_string(path));
    const Result<long> fd =
        init.call(path, SYS_openat, {static_cast<uint64_t>(AT_FDCWD), name, O_RDONLY | O_CLOEXEC});
    if (!fd) return std::string();
    std::array<char, 1024> text{};
    std::array<RemoteCall, 2> calls{
        RemoteCall{SYS_read, {static_cast<uint64_t>(*fd), args + kTextAt, text.size() - 1}, 0},
        RemoteCall{SYS_close, {static_cast<uint64_t>(*fd)}, 0}};
    FERMATA_TRY_RESULT(init.run(calls));
    FERMATA_TRY_RESULT(init.get(args + kTextAt, text));
    return std::string(text.data(), static_cast<size_t>(std::max(0L, calls[0].result)));
  }

  /// A heading, and a line for each object (sysvipc(7)).
  Status refuse_system_v(Remote& init) {
    for (const char* kind : {"shm", "sem", "msg"}) {
      FERMATA_ASSIGN_STATUS(const std::string text,
                            read_in_pod(init, fmt::format("/proc/sysvipc/{}", kind).c_str()));
      if (std::count(text.begin(), text.end(), '\n') <= 1) continue;
      FERMATA_TRY(note(
          {Code::kCannotHold, fmt::format("the job has System V IPC objects ({}, see "
                                          "/proc/sysvipc/{} in the pod), which cannot "
                                          "be rebuilt yet: use POSIX ones, or remove them (ipcrm)",
                                          kind, kind)}));
    }
    return Status::ok();
  }

  /// Processes that share memory or a file table by clone(2) would come back with two.
  Status refuse_shared_tables() {
    for (auto a = held_.begin(); a != held_.end(); ++a) {
      for (auto b = held_.begin(); b != a; ++b) {
        if (a->zombie || b->zombie) continue;
        if (::syscall(SYS_kcmp, a->pid, b->pid, KCMP_VM, 0, 0) != 0 &&
            ::syscall(SYS_kcmp, a->pid, b->pid, KCMP_FILES, 0, 0) != 0) {
          continue;
        }
        FERMATA_TRY(
            note({Code::kCannotHold,
                  fmt::format("{} and {} share memory or a file table (clone with CLONE_VM or "
                              "CLONE_FILES), which cannot be rebuilt",
                              b->describe(), a->describe())}));
      }
    }
    return Status::ok();
  }

  /// time_namespaces(7): a namespace's clock is the host's plus its offset.
  static void add_offset(const std::string& offsets, const char* clock, timespec& time) {
    const size_t at = offsets.find(clock);
    long sec = 0;
    long nsec = 0;
    if (at == std::string::npos ||
        std::sscanf(offsets.c_str() + at, "%*s %ld %ld", &sec, &nsec) != 2) {
      return;
    }
    constexpr long kNano = 1'000'000'000;
    time.tv_sec += sec;
    time.tv_nsec += nsec;
    if (time.tv_nsec >= kNano) {
      time.tv_nsec -= kNano;
      time.tv_sec += 1;
    }
  }

  Status capture_one(size_t index) {
    image::Process& out = *objects_.mutable_processes(static_cast<int>(index));
    HeldProcess& process = held_[index];
    if (process.zombie) return capture_zombie(process, out);
    FERMATA_TRY(capture_process(process, out));
    // Where something stands in the way there will be no set. What fails is tried again, and told,
    // when twins are asked for.
    if (twins_ && obstacles_.sum()) static_cast<void>(begin_twin(process));
    return Status::ok();
  }

  Status capture_files(size_t index) {
    if (!has_files_.contains(held_[index].pid)) return Status::ok();
    image::Process& out = *objects_.mutable_processes(static_cast<int>(index));
    return files_.record(held_[index], out, obstacles_);
  }

  Status capture_zombie(const HeldProcess& process, image::Process& out) {
    FERMATA_ASSIGN_STATUS(const ProcStatus status, read_status(process.pid, process.pid));
    FERMATA_ASSIGN_STATUS(const ProcStat stat, ProcStat::read(process.pid));
    out.set_vpid(process.vpid);
    out.set_name(process.name);
    out.set_parent(vpid_of(process.parent));
    out.set_group(status.vgroup);
    out.set_session(status.vsession);
    out.set_zombie(true);
    out.set_exit_status(static_cast<int32_t>(stat.field(52)));
    return Status::ok();
  }

  Status drain_aio(HeldProcess& process) {
    if (process.zombie || !process.site || !process.site->saw_aio()) return Status::ok();
    FERMATA_ASSIGN_STATUS(const std::vector<Map> maps, read_maps(process.pid));
    std::vector<AioRing> rings;
    for (const Map& map : maps) {
      if (map.name.starts_with("/[aio]")) rings.push_back({map.start, map.length()});
    }
    if (rings.empty()) return Status::ok();
    FERMATA_ASSIGN_STATUS(CaptureRemote * leader, remote_of(process, process.leader()));
    return drain_and_capture_aio(*leader, rings, drained_[process.vpid]).within(process.describe());
  }

  Status relations(const HeldProcess& process, image::Process& out) {
    const ProcStatus& status = process.leader().status;
    out.set_vpid(process.vpid);
    out.set_name(process.name);
    out.set_parent(vpid_of(process.parent));
    out.set_group(status.vgroup);
    out.set_session(status.vsession);
    out.set_stopped(process.stopped);
    out.set_uid(status.uids[0]);
    out.set_gid(status.gids[0]);
    if (process.pid != init_ && out.parent() == 0) {
      return {Code::kCannotHold,
              fmt::format("{} was brought into the pod from outside (fermata exec?): wait until it "
                          "has ended, or end it",
                          process.describe())};
    }
    if (out.group() == 0 || out.session() == 0) {
      return {Code::kCannotHold, fmt::format("{} belongs to a session or process group outside the "
                                             "pod",
                                             process.describe())};
    }
    return Status::ok();
  }

  /// All but its files.
  Status capture_process(HeldProcess& process, image::Process& out) {
    FERMATA_TRY(relations(process, out));
    if (const auto drained = drained_.find(process.vpid); drained != drained_.end()) {
      *out.mutable_aio_contexts() = drained->second.aio_contexts();
    }
    FERMATA_TRY(check_identity(process, held_.front()));
    if (!process.site) {
      return {Code::kCannotHold,
              fmt::format("{} has no vDSO with room for calls, so its state cannot be read",
                          process.describe())};
    }
    FERMATA_ASSIGN_STATUS(CaptureRemote * leader, remote_of(process, process.leader()));
    for (HeldThread& thread : process.threads) {
      FERMATA_TRY(capture_thread(process, thread, *out.add_threads()));
    }
    FERMATA_TRY(capture_process_state(process, *leader, out));
    FERMATA_TRY(capture_actions(process, *leader, out));
    FERMATA_TRY(capture_pending(process.pid, /*shared=*/true, *out.mutable_pending()));
    FERMATA_TRY(capture_timers(process, *leader, vtids_, out));
    has_files_.insert(process.pid);
    return capture_address_space(process, init_, recorder_, finder_, search_, out);
  }

  pid_t init_;
  std::vector<HeldProcess>& held_;
  OutsideConnections& outside_;
  PageFinder& finder_;
  PageSearch search_;
  bool twins_;
  image::PodObjects& objects_;
  std::vector<MemoryRegion>& memory_;
  SharedObjectRecorder recorder_;
  std::map<pid_t, int> vpids_;
  std::map<pid_t, int> vtids_;
  std::set<pid_t> has_files_;              // processes that are held, with all that was looked at
  std::map<int, image::Process> drained_;  // by vpid: AIO contexts
  Obstacles obstacles_;
  FileTableRecorder files_;
};

}  // namespace

Result<image::PodObjects> HeldPod::capture() {
  image::PodObjects objects;
  memory_.clear();
  // The kernel's number of a group is that of its directory.
  struct stat group {};
  outside_.group = ::stat(group_.c_str(), &group) == 0 ? group.st_ino : 0;
  outside_.connections.clear();
  outside_.sockets.clear();
  unfound_.clear();
  Capture capture(init_, rank_streams_, held_, outside_, *finder_, objects, memory_,
                  twins_expected_ ? &unfound_ : nullptr);
  FERMATA_TRY_RESULT(capture.run());
  return objects;
}

}  // namespace fermata::engine
