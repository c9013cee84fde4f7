#include "node-agent/lazy_restore.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "common/extents.h"
#include "common/file_util.h"
#include "common/log.h"
#include "common/memory_image.h"
#include "node-agent/engine/cgroup_freezer.h"

namespace fermata::node_agent {
namespace {

constexpr int kPodEndsMs = std::chrono::milliseconds(kGuardPatience).count();

void wait_for_end(int pidfd, int at_most_ms) {
  pollfd wait{pidfd, POLLIN, 0};
  while (::poll(&wait, 1, at_most_ms) < 0 && errno == EINTR) {
  }
}

/// A process that has the same table of descriptors (CLONE_FILES): when this one dies, the
/// userfaultfds stay open, so nobody in the pod sees a missing page as zeros before the guard has
/// ended the pod. Only async-signal-safe calls: this is a fork of a process with threads.
[[noreturn]] void stand_guard(int agent, int init) {
  ::setsid();
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::prctl(PR_SET_NAME, "fermata-guard");
  wait_for_end(agent, -1);
  ::syscall(SYS_pidfd_send_signal, init, SIGKILL, nullptr, 0);
  wait_for_end(init, kPodEndsMs);
  ::_exit(0);
}

bool gets_huge_pages(const image::Vma& vma, bool always) {
  const auto advised = [&](int what) {
    return std::find(vma.advice().begin(), vma.advice().end(), what) != vma.advice().end();
  };
  return vma.backing() == image::Vma::ANONYMOUS && !vma.shared() && !advised(MADV_NOHUGEPAGE) &&
         vma.huge_page_size() == 0 && (always || advised(MADV_HUGEPAGE));
}

/// Where the process would have huge pages, had its memory been filled before.
Extents huge_ranges(const image::Process& process, const MemoryRegion& region, bool always) {
  Extents ranges;
  for (const image::Vma& vma : process.vmas()) {
    if (!gets_huge_pages(vma, always)) continue;
    for (const Extent& extent :
         only(part_of(region.extents, vma.start(), vma.end()), Where::kHere)) {
      const uint64_t start = (extent.address + kHugePage - 1) / kHugePage * kHugePage;
      const uint64_t end = (extent.address + extent.length) / kHugePage * kHugePage;
      if (end > start) append(ranges, start, end - start);
    }
  }
  return ranges;
}

}  // namespace

Result<std::unique_ptr<LazyRestore>> LazyRestore::start(int init_pidfd,
                                                        const std::filesystem::path& group,
                                                        std::vector<UniqueFd> set_locks,
                                                        std::function<void()> all_came) {
  std::unique_ptr<LazyRestore> made(new LazyRestore);
  made->init_.reset(::fcntl(init_pidfd, F_DUPFD_CLOEXEC, 0));
  if (!made->init_) return errno_failure(errno, "a descriptor of the pod's PID 1");
  made->set_locks_ = std::move(set_locks);
  LazyRestore* const self = made.get();
  engine::LazyFill::Events events;
  events.lost = [self](const Status& status) { self->lost(status); };
  events.filled = [self, all_came = std::move(all_came)] {
    // An agent that dies from here on leaves a whole pod, which the next one takes over.
    if (all_came) all_came();
    self->dismiss_guard();
    self->set_locks_.clear();
    self->huge_pages_.mend();
    if (self->settle_) self->settle_();
  };
  events.processes = [group] {
    return engine::group_processes(group).value_or(std::vector<pid_t>{});
  };
  FERMATA_ASSIGN(made->fill_, engine::LazyFill::start(std::move(events)));
  return made;
}

LazyRestore::~LazyRestore() {
  // A pod that was ended has to be gone before its descriptors are.
  if (!loss()) wait_for_end(init_.get(), kPodEndsMs);
  fill_.reset();
  dismiss_guard();
}

void LazyRestore::dismiss_guard() {
  if (guard_ < 0) return;
  ::kill(guard_, SIGKILL);
  while (::waitpid(guard_, nullptr, 0) < 0 && errno == EINTR) {
  }
  guard_ = -1;
}

Status LazyRestore::let_run(const image::PodObjects& objects,
                            const std::vector<MemoryRegion>& memory,
                            const std::vector<engine::FrozenProcess>& processes,
                            std::function<void()> settle) {
  settle_ = std::move(settle);
  const bool always =
      read_file("/sys/kernel/mm/transparent_hugepage/enabled").value_or("").starts_with("[always]");
  for (const image::Process& process : objects.processes()) {
    const auto stands = std::find_if(processes.begin(), processes.end(),
                                     [&](const auto& one) { return one.vpid == process.vpid(); });
    const auto region = std::find_if(memory.begin(), memory.end(), [&](const MemoryRegion& one) {
      return one.id == MemoryId{MemoryId::Kind::kProcess, static_cast<uint64_t>(process.vpid())};
    });
    if (stands == processes.end() || region == memory.end()) continue;
    huge_pages_.want(stands->pid, huge_ranges(process, *region, always));
  }
  self_.reset(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self_) return errno_status(errno, "pidfd_open of this process itself");
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
  if (pid == 0) stand_guard(self_.get(), init_.get());
  if (pid < 0) return errno_status(errno, "fork of the guard of a lazy restart");
  guard_ = pid;  // nobody else looks before runs()
  return loss();
}

Status LazyRestore::finish(std::chrono::milliseconds at_most) { return fill_->finish(at_most); }

void LazyRestore::wait_while_it_comes(std::chrono::milliseconds period,
                                      const std::function<void()>& comes) {
  size_t left = fill_->left();
  while (fill_->finish(period).code() == Code::kTimeout) {
    const size_t now = fill_->left();
    if (now != left) comes();
    left = now;
  }
}

Status LazyRestore::loss() const {
  const std::lock_guard lock(mutex_);
  return loss_;
}

void LazyRestore::lost(const Status& status) {
  {
    const std::lock_guard lock(mutex_);
    loss_ = status.within("memory of the restart was lost");
  }
  end_pod();
}

void LazyRestore::end_pod() const {
  // ESRCH: it has ended by itself.
  (void)::syscall(SYS_pidfd_send_signal, init_.get(), SIGKILL, nullptr, 0);
}

}  // namespace fermata::node_agent
