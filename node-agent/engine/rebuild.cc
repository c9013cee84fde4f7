#include "node-agent/engine/rebuild.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "node-agent/engine/address_space.h"
#include "node-agent/engine/aio.h"
#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/file_locks.h"
#include "node-agent/engine/file_table.h"
#include "node-agent/engine/identity.h"
#include "node-agent/engine/process_state.h"
#include "node-agent/engine/process_tree.h"
#include "node-agent/engine/shm_tree.h"
#include "node-agent/engine/signals.h"
#include "node-agent/engine/thread_state.h"
#include "node-agent/engine/timers.h"

namespace fermata::engine {
namespace {

constexpr const char* kLastPid = "/proc/sys/kernel/ns_last_pid";
constexpr uint64_t kFirstBootstrap = 0x10000000;
constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

/// An address for the bootstrap area that is free in every process of the image and in the fork it
/// begins in.
Result<uint64_t> choose_bootstrap(const image::PodObjects& objects, pid_t init) {
  FERMATA_ASSIGN(const std::vector<Map> maps, read_maps(init));
  constexpr uint64_t kSize = RebuildRemote::kBootstrapSize;
  for (uint64_t at = kFirstBootstrap; at < 0x7f0000000000; at += kSize) {
    const bool in_image = std::any_of(
        objects.processes().begin(), objects.processes().end(),
        [&](const image::Process& process) { return overlaps(process, at, at + kSize); });
    const bool in_fork = std::any_of(maps.begin(), maps.end(), [&](const Map& map) {
      return map.start < at + kSize && at < map.end;
    });
    if (!in_image && !in_fork) return at;
  }
  return failure(Code::kUnsupported,
                 "no MiB of address space is free in every process of the image");
}

class Rebuild : public RebuildContext, public RebuiltPod {
 public:
  explicit Rebuild(const RebuildRequest& request)
      : request_(request),
        objects_(*request.objects),
        memory_(*request.memory),
        network_(request.network),
        kinds_(make_file_kinds()) {}

  ~Rebuild() override {
    if (!running_) kill_all();
  }

  Status build() {
    FERMATA_TRY(begin());
    FERMATA_TRY(tree_->build());
    FERMATA_TRY(tree_->finish_groups());
    FERMATA_TRY(tree_->end_zombies());
    FERMATA_TRY(tree_->stop_the_stopped());
    FERMATA_TRY(set_last_pid());
    for (const int vpid : tree_->order()) FERMATA_TRY(within(vpid, address_space(vpid)));
    FERMATA_TRY(files());
    for (const int vpid : tree_->order()) FERMATA_TRY(within(vpid, aio_contexts(vpid)));
    for (const int vpid : tree_->order()) FERMATA_TRY(within(vpid, process_state(vpid)));
    for (const int vpid : tree_->order()) FERMATA_TRY(within(vpid, threads(vpid)));
    for (const int vpid : tree_->order()) FERMATA_TRY(within(vpid, last_steps(vpid)));
    return Status::ok();
  }

  // RebuiltPod
  const std::vector<FrozenProcess>& processes() const override { return listed_; }

  Status run() override {
    for (const std::unique_ptr<FileKind>& kind : kinds_) FERMATA_TRY(kind->begin(*this));
    // A close() of the program's has to be the last.
    files_.clear();
    running_ = true;
    Status first;
    std::vector<pid_t> dead;
    for (const auto& [vtid, remote] : all_threads_) {
      const Status detached = detach(remote->tid(), dead);
      if (first && !detached) first = detached;
    }
    // Killed by those that ran before them: their parents wait until we have. PID 1 is for its own.
    std::erase(dead, request_.init);
    reap_tracees(std::move(dead));
    return first;
  }

  // RebuildContext
  Result<Remote*> remote(int vpid) override {
    if (!tree_->has(vpid)) {
      return failure(Code::kDamaged, fmt::format("the image refers to process {}", vpid));
    }
    return &tree_->remote(vpid);
  }

  int created(uint32_t file_id) const override {
    const auto found = files_.find(file_id);
    return found == files_.end() ? -1 : found->second.get();
  }

  Result<UniqueFd> open_in_pod(int vpid, const std::string& path, int flags, mode_t mode) override {
    FERMATA_ASSIGN(Remote * process, remote(vpid));
    FERMATA_ASSIGN(const uint64_t address, process->put_string(path));
    FERMATA_ASSIGN(const long fd, process->call(fmt::format("opening {}", path), SYS_openat,
                                                {static_cast<uint64_t>(AT_FDCWD), address,
                                                 static_cast<uint64_t>(flags), mode}));
    FERMATA_ASSIGN(UniqueFd ours, process->take_fd(static_cast<int>(fd)));
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   process->call("close", SYS_close, {static_cast<uint64_t>(fd)}));
    return ours;
  }

  Result<int> object_fd(uint32_t object_id) override { return store_.fd(object_id); }

  int stdio_fd(int stream) const override {
    // Those of single ranks become the job's where they have none of their own here.
    const auto count = static_cast<int>(request_.stdio.size());
    if (stream < 0 || count < 3) return -1;
    return request_.stdio[static_cast<size_t>(stream < count ? stream : stream % 3)];
  }

  NetworkMap& network() override { return network_; }

 private:
  const image::Process& process(int vpid) const {
    return *std::find_if(objects_.processes().begin(), objects_.processes().end(),
                         [&](const image::Process& one) { return one.vpid() == vpid; });
  }

  Status within(int vpid, const Status& status) const {
    return status ? status
                  : status.within(fmt::format("process {} ({})", vpid, process(vpid).name()));
  }

  Status begin() {
    FERMATA_ASSIGN_STATUS(bootstrap_, choose_bootstrap(objects_, request_.init));
    FERMATA_ASSIGN_STATUS(std::unique_ptr<RebuildRemote> init,
                          RebuildRemote::strip(request_.init, bootstrap_));
    RebuildRemote& first = *init;
    tree_ = std::make_unique<ProcessTreeBuilder>(objects_, bootstrap_, std::move(init));
    FERMATA_TRY(take_file_identity(first, request_.owner));
    FERMATA_TRY(rebuild_shm_tree(request_.init, request_.owner, objects_, memory_));
    return store_.rebuild(first, objects_, memory_);
  }

  /// PIDs go on being counted from where they were, so that none just given is given again.
  Status set_last_pid() {
    if (objects_.pod().last_pid() <= 0) return Status::ok();
    RebuildRemote& init = tree_->remote(1);
    FERMATA_ASSIGN_STATUS(const uint64_t path, init.put_string(kLastPid));
    const std::string number = fmt::format("{}", objects_.pod().last_pid());
    FERMATA_ASSIGN_STATUS(const uint64_t text, init.put_string(number, 256));
    FERMATA_ASSIGN_STATUS(const long fd,
                          init.call(fmt::format("opening {}", kLastPid), SYS_openat,
                                    {static_cast<uint64_t>(AT_FDCWD), path, O_WRONLY | O_CLOEXEC}));
    std::array<RemoteCall, 2> calls{
        RemoteCall{SYS_write, {static_cast<uint64_t>(fd), text, number.size()}, 0},
        RemoteCall{SYS_close, {static_cast<uint64_t>(fd)}, 0}};
    FERMATA_TRY(init.run(calls));
    if (calls[0].result < 0) {
      return errno_status(static_cast<int>(-calls[0].result), fmt::format("writing {}", kLastPid));
    }
    return Status::ok();
  }

  FrozenProcess listed(int vpid) {
    RebuildRemote& leader = tree_->remote(vpid);
    return {vpid, leader.pid(), {{vpid, leader.tid()}}};
  }

  Status address_space(int vpid) {
    RebuildRemote& leader = tree_->remote(vpid);
    FERMATA_TRY(rebuild_maps(leader, request_.init, process(vpid), store_, memory_));
    if (request_.before_contents) FERMATA_TRY(request_.before_contents(listed(vpid), leader));
    FERMATA_TRY(rebuild_contents(leader, process(vpid), memory_, request_.lazy));
    if (request_.after_contents) FERMATA_TRY(request_.after_contents(listed(vpid), leader));
    return Status::ok();
  }

  FileKind* kind_of(const image::File& file) const {
    for (const std::unique_ptr<FileKind>& kind : kinds_) {
      if (kind->owns(file)) return kind.get();
    }
    return nullptr;
  }

  /// Sockets are bound by us, so we have to ask what the kernel would: who may have a port below
  /// 1024.
  Status check_port(const image::File& file) const {
    const std::string& local = file.has_tcp() ? file.tcp().local() : file.udp().local();
    if (request_.owner.uid == 0 || local.size() < sizeof(sockaddr_in)) return Status::ok();
    uint16_t port = 0;  // at the same place in both families
    std::memcpy(&port, local.data() + offsetof(sockaddr_in, sin_port), sizeof port);
    constexpr uint16_t kFirstUnprivileged = 1024;
    if (port == 0 || ntohs(port) >= kFirstUnprivileged) return Status::ok();
    return {Code::kPermission, fmt::format("the image asks for port {}, which user {} may not have",
                                           ntohs(port), request_.owner.name)};
  }

  Status files() {
    for (const std::unique_ptr<FileKind>& kind : kinds_) {
      FERMATA_TRY(kind->start_rebuild(objects_, *this));
    }
    for (const image::File& file : objects_.files()) {
      FileKind* kind = kind_of(file);
      if (kind == nullptr) {
        return {Code::kUnsupported,
                fmt::format("open file {} is of a kind this version cannot rebuild", file.id())};
      }
      if (file.has_tcp() || file.has_udp()) FERMATA_TRY(check_port(file));
      FERMATA_ASSIGN_STATUS(files_[file.id()], kind->create(file, *this));
    }
    for (const std::unique_ptr<FileKind>& kind : kinds_) FERMATA_TRY(kind->bind(*this));
    for (const int vpid : tree_->order()) {
      FERMATA_TRY(rebuild_file_table(tree_->remote(vpid), process(vpid), files_));
    }
    for (const image::File& file : objects_.files()) {
      FERMATA_TRY(kind_of(file)->connect(file, *this));
      FERMATA_TRY(file_owner(file));
      for (const image::FileLock& lock : file.locks()) {
        FERMATA_TRY(relock(lock, files_.at(file.id()).get()));
      }
    }
    FERMATA_TRY(network_.exchange());
    for (const std::unique_ptr<FileKind>& kind : kinds_) FERMATA_TRY(kind->connect_outside(*this));
    for (const int vpid : tree_->order()) {
      for (const image::FileLock& lock : process(vpid).posix_locks()) {
        FERMATA_TRY(posix_lock(vpid, lock));
      }
    }
    return Status::ok();
  }

  Status aio_contexts(int vpid) {
    for (const image::AioContext& context : process(vpid).aio_contexts()) {
      FERMATA_TRY(rebuild_aio(tree_->remote(vpid), context));
    }
    return Status::ok();
  }

  /// A POSIX lock is the process's: it takes it itself, through a descriptor it has.
  Status posix_lock(int vpid, const image::FileLock& lock) {
    for (const image::Fd& entry : process(vpid).fds()) {
      if (entry.file_id() == lock.file_id()) {
        return relock_posix(lock, tree_->remote(vpid), entry.fd());
      }
    }
    return {Code::kDamaged, fmt::format("process {} locks a file that it has not open", vpid)};
  }

  Status file_owner(const image::File& file) {
    if (!file.has_owner()) return Status::ok();
    FERMATA_ASSIGN_STATUS(Remote * process, remote(file.creator()));
    const f_owner_ex owner{static_cast<__pid_type>(file.owner().type()), file.owner().vpid()};
    FERMATA_TRY(process->put(process->argument_address(), owner));
    const auto fd = static_cast<uint64_t>(file.creator_fd());
    FERMATA_ASSIGN_STATUS(
        [[maybe_unused]] const long owned,
        process->call("F_SETOWN_EX", SYS_fcntl, {fd, F_SETOWN_EX, process->argument_address()}));
    FERMATA_ASSIGN_STATUS(
        [[maybe_unused]] const long signal,
        process->call("F_SETSIG", SYS_fcntl,
                      {fd, F_SETSIG, static_cast<uint64_t>(file.owner().signal())}));
    return Status::ok();
  }

  Status process_state(int vpid) {
    RebuildRemote& leader = tree_->remote(vpid);
    const image::Process& record = process(vpid);
    FERMATA_TRY(rebuild_process_state(leader, record));
    FERMATA_TRY(rebuild_actions(leader, record));
    FERMATA_TRY(drop_pending(leader));
    return rebuild_pending(leader, vpid, vpid, record.pending(), /*shared=*/true);
  }

  Status threads(int vpid) {
    RebuildRemote& leader = tree_->remote(vpid);
    const image::Process& record = process(vpid);
    FrozenProcess list{vpid, leader.pid(), {}};
    for (const image::Thread& thread : record.threads()) {
      RebuildRemote* remote = &leader;
      if (thread.vtid() != vpid) {
        FERMATA_ASSIGN_STATUS(const pid_t tid, leader.create(kThreadFlags, 0, thread.vtid()));
        FERMATA_ASSIGN_STATUS(threads_[thread.vtid()],
                              RebuildRemote::adopt(leader.pid(), tid, bootstrap_));
        remote = threads_[thread.vtid()].get();
      }
      all_threads_[thread.vtid()] = remote;
      list.threads.push_back({thread.vtid(), remote->tid()});
      FERMATA_TRY(rebuild_thread(*remote, thread));
      FERMATA_TRY(rebuild_pending(*remote, vpid, thread.vtid(), thread.pending(), false));
    }
    for (const FrozenThread& thread : list.threads) {
      if (!request_.each_thread) break;
      FERMATA_TRY(request_.each_thread(list, thread, *all_threads_.at(thread.vtid)));
    }
    listed_.push_back(std::move(list));
    return rebuild_timers(leader, record);
  }

  Status last_steps(int vpid) {
    RebuildRemote& leader = tree_->remote(vpid);
    const image::Process& record = process(vpid);
    for (const image::Thread& thread : record.threads()) {
      FERMATA_TRY(take_identity(*all_threads_.at(thread.vtid()), request_.owner, thread));
    }
    FERMATA_TRY(rebuild_dumpable(leader));
    for (const image::Thread& thread : record.threads()) {
      FERMATA_TRY(rebuild_thread_as_user(*all_threads_.at(thread.vtid()), thread));
    }
    FERMATA_ASSIGN_STATUS(const uint64_t gadget, find_vdso_syscall(leader, record));
    std::map<int, std::optional<long>> sleeps;
    for (const image::Thread& thread : record.threads()) {
      FERMATA_ASSIGN_STATUS(sleeps[thread.vtid()],
                            rebuild_sleep(*all_threads_.at(thread.vtid()), thread));
    }
    FERMATA_TRY(rebuild_trap_action(leader, record, gadget));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long unmapped,
                          leader.call_at(gadget, "unmapping the bootstrap area", SYS_munmap,
                                         {bootstrap_, RebuildRemote::kBootstrapSize}));
    for (const image::Thread& thread : record.threads()) {
      FERMATA_TRY(load_registers(*all_threads_.at(thread.vtid()), thread, sleeps[thread.vtid()]));
    }
    return Status::ok();
  }

  /// PID 1's end takes every process of its namespace with it. Its own end is for its parent to
  /// see.
  void kill_all() {
    ::kill(request_.init, SIGKILL);
    if (!tree_) return;
    std::vector<pid_t> tids;
    for (const auto& [vtid, remote] : threads_) tids.push_back(remote->tid());
    for (const int vpid : tree_->order()) {
      if (vpid != 1 && tree_->has(vpid)) tids.push_back(tree_->remote(vpid).tid());
    }
    reap_tracees(std::move(tids));
  }

  const RebuildRequest request_;
  const image::PodObjects& objects_;
  const std::vector<MemoryRegion>& memory_;
  NetworkMap network_;
  std::vector<std::unique_ptr<FileKind>> kinds_;
  uint64_t bootstrap_ = 0;
  std::unique_ptr<ProcessTreeBuilder> tree_;
  SharedObjectStore store_;
  std::map<uint32_t, UniqueFd> files_;
  std::map<int, std::unique_ptr<RebuildRemote>> threads_;  ///< but the leaders, by vtid
  std::map<int, RebuildRemote*> all_threads_;
  std::vector<FrozenProcess> listed_;
  bool running_ = false;
};

}  // namespace

Result<std::unique_ptr<RebuiltPod>> rebuild(const RebuildRequest& request) {
  FERMATA_TRY_RESULT(validate(*request.objects, *request.memory));
  FERMATA_TRY_RESULT(check_requirements(request.objects->needs()));
  FERMATA_TRY_RESULT(check_huge_pages(*request.objects, *request.memory));
  auto pod = std::make_unique<Rebuild>(request);
  FERMATA_TRY_RESULT(pod->build());
  return std::unique_ptr<RebuiltPod>(std::move(pod));
}

}  // namespace fermata::engine
