// An image is untrusted: what it says is checked against itself before anything is made from it.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <set>

#include "node-agent/engine/rebuild.h"
#include "node-agent/engine/validate_sockets.h"

namespace fermata::engine {
namespace {

constexpr int kMostPid = 1 << 22;  // PID_MAX_LIMIT
constexpr int kMostFd = 1 << 20;
constexpr uint64_t kUserEnd = 0x7ffffffff000;
constexpr int kSignals = 64;
constexpr int kMostDepth = 1024;
constexpr int kMostProcesses = 32768;
constexpr int kLastStream = 3 * 65536;
constexpr int kMostTimers = 1024;

class Validator {
 public:
  Validator(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory)
      : objects_(objects), memory_(memory) {}

  Status run() {
    FERMATA_TRY(shared_objects());
    FERMATA_TRY(shm_nodes());
    FERMATA_TRY(files());
    FERMATA_TRY(validate_sockets(objects_));
    FERMATA_TRY(numbers());
    for (const image::Process& process : objects_.processes()) {
      FERMATA_TRY(tree(process));
      if (process.zombie()) continue;
      FERMATA_TRY(threads(process));
      FERMATA_TRY(maps(process));
      FERMATA_TRY(contents(process));
      FERMATA_TRY(descriptors(process));
      FERMATA_TRY(signals(process));
    }
    return Status::ok();
  }

 private:
  template <typename... T>
  static Status wrong(fmt::format_string<T...> text, T&&... args) {
    return {Code::kDamaged,
            "the image is not sound: " + fmt::format(text, std::forward<T>(args)...)};
  }

  static bool absolute(const std::string& path) {
    return path.starts_with('/') && path.find('\0') == std::string::npos && path.size() < 4096;
  }

  static bool relative_and_inside(const std::string& path) {
    if (path.empty() || path.starts_with('/') || path.find('\0') != std::string::npos) return false;
    const std::string framed = "/" + path + "/";
    return framed.find("/../") == std::string::npos && framed.find("/./") == std::string::npos &&
           framed.find("//") == std::string::npos && path.size() < 4096;
  }

  Status shared_objects() {
    for (const image::SharedObject& object : objects_.shared_objects()) {
      if (!object_ids_.insert(object.id()).second || object.id() == 0) {
        return wrong("shared object {} stands twice", object.id());
      }
      if (object.size() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return wrong("shared object {} has {} bytes", object.id(), object.size());
      }
      if (object.huge_page_size() != 0 && !huge_pages(object)) {
        return wrong("shared object {} cannot be of huge pages of {} bytes", object.id(),
                     object.huge_page_size());
      }
      const bool named = object.kind() == image::SharedObject::DELETED;
      if (named && !absolute(object.name())) return wrong("a deleted file has no absolute path");
      if (object.name().find('\0') != std::string::npos || object.name().size() > 4096) {
        return wrong("the name of shared object {}", object.id());
      }
    }
    for (const MemoryRegion& region : memory_) {
      if (region.id.kind == MemoryId::Kind::kObject &&
          !object_ids_.contains(static_cast<uint32_t>(region.id.id))) {
        return wrong("memory of shared object {}, which does not exist", region.id.id);
      }
    }
    return Status::ok();
  }

  // Parents stand before children, and no path leads through a symbolic link.
  Status shm_nodes() {
    std::map<std::string, uint32_t> seen;
    for (const image::ShmNode& node : objects_.shm_nodes()) {
      if (!relative_and_inside(node.path())) return wrong("path '{}' in /dev/shm", node.path());
      const size_t slash = node.path().rfind('/');
      if (slash != std::string::npos) {
        const auto parent = seen.find(node.path().substr(0, slash));
        if (parent == seen.end() || !S_ISDIR(parent->second)) {
          return wrong("'{}' in /dev/shm has no folder", node.path());
        }
      }
      if (!node.hard_link().empty()) {
        // Only of a plain file: a second name of a symbolic link could stand for a folder outside.
        const auto first = seen.find(node.hard_link());
        if (first == seen.end() || !S_ISREG(first->second) || !S_ISREG(node.mode())) {
          return wrong("'{}' in /dev/shm links to no file", node.path());
        }
      }
      if (node.object_id() != 0 && !object_ids_.contains(node.object_id())) {
        return wrong("'{}' in /dev/shm has no contents", node.path());
      }
      if (node.size() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return wrong("'{}' in /dev/shm has {} bytes", node.path(), node.size());
      }
      if (!seen.emplace(node.path(), node.mode()).second) {
        return wrong("'{}' in /dev/shm stands twice", node.path());
      }
    }
    return Status::ok();
  }

  Status files() {
    for (const image::File& file : objects_.files()) {
      if (file.id() == 0 || !file_ids_.insert(file.id()).second) {
        return wrong("open file {} stands twice", file.id());
      }
      if (file.kind_case() == image::File::KIND_NOT_SET) {
        return wrong("open file {} is of a kind this version does not know", file.id());
      }
      if (file.has_stdio() && (file.stdio().stream() < 0 || file.stdio().stream() > kLastStream)) {
        return wrong("stream {}", file.stdio().stream());
      }
      creators_.insert(file.creator());
    }
    return Status::ok();
  }

  Status numbers() {
    if (objects_.processes_size() > kMostProcesses) {
      return wrong("{} processes", objects_.processes_size());
    }
    for (const image::Process& process : objects_.processes()) {
      if (process.vpid() < 1 || process.vpid() > kMostPid || !pids_.insert(process.vpid()).second) {
        return wrong("process {} stands twice or has no possible number", process.vpid());
      }
      if (!process.zombie()) living_.insert(process.vpid());
      parents_[process.vpid()] = process.parent();
    }
    std::set<int> tids = pids_;
    for (const image::Process& process : objects_.processes()) {
      for (const image::Thread& thread : process.threads()) {
        if (thread.vtid() == process.vpid()) continue;
        if (thread.vtid() < 2 || thread.vtid() > kMostPid || !tids.insert(thread.vtid()).second) {
          return wrong("thread {} stands twice or has no possible number", thread.vtid());
        }
      }
    }
    if (!living_.contains(1)) return wrong("PID 1 is missing");
    for (const int creator : creators_) {
      if (!living_.contains(creator)) return wrong("a file was open in process {}", creator);
    }
    return Status::ok();
  }

  Status tree(const image::Process& process) const {
    const bool init = process.vpid() == 1;
    if (init ? process.parent() != 0 : !living_.contains(process.parent())) {
      return wrong("process {} has parent {}", process.vpid(), process.parent());
    }
    if (init && (process.session() != 1 || process.group() != 1)) {
      return wrong("PID 1 is in session {}", process.session());
    }
    for (const int number : {process.group(), process.session()}) {
      if (number < 1 || number > kMostPid) return wrong("process group {}", number);
    }
    // No process is its own ancestor, and the tree is built by recursion.
    int at = process.vpid();
    for (int depth = 0; at != 1; ++depth) {
      const auto parent = parents_.find(at);
      if (parent == parents_.end() || depth > kMostDepth) {
        return wrong("process {} does not descend from PID 1 in {} steps", process.vpid(),
                     kMostDepth);
      }
      at = parent->second;
    }
    return Status::ok();
  }

  Status threads(const image::Process& process) const {
    if (process.threads_size() == 0 || process.threads(0).vtid() != process.vpid()) {
      return wrong("process {} has no main thread", process.vpid());
    }
    for (const image::Thread& thread : process.threads()) {
      const std::string& general = thread.registers().general();
      if (general.size() != sizeof(user_regs_struct)) {
        return wrong("the registers of thread {}", thread.vtid());
      }
      if (thread.registers().xstate().size() < 576 || thread.registers().xstate().size() > 65536) {
        return wrong("the extended registers of thread {}", thread.vtid());
      }
      for (const image::PendingSignal& pending : thread.pending()) FERMATA_TRY(siginfo(pending));
      // The kernel writes there from now on.
      if (thread.has_rseq() && thread.rseq().address() != 0 &&
          !in_a_map(process, thread.rseq().address())) {
        return wrong("the rseq area of thread {}", thread.vtid());
      }
    }
    return Status::ok();
  }

  static bool in_a_map(const image::Process& process, uint64_t address) {
    return std::any_of(process.vmas().begin(), process.vmas().end(), [&](const image::Vma& vma) {
      return vma.start() <= address && address < vma.end();
    });
  }

  static bool is_huge_page_size(uint64_t size) {
    return std::has_single_bit(size) && size > kPageSize;
  }

  static bool huge_pages(const image::Vma& vma) {
    const uint64_t size = vma.huge_page_size();
    return is_huge_page_size(size) && vma.start() % size == 0 && vma.end() % size == 0 &&
           vma.backing() == image::Vma::ANONYMOUS && !vma.shared() && !vma.grows_down();
  }

  static bool huge_pages(const image::SharedObject& object) {
    const uint64_t size = object.huge_page_size();
    return is_huge_page_size(size) && object.size() % size == 0 &&
           (object.kind() == image::SharedObject::ANONYMOUS ||
            object.kind() == image::SharedObject::MEMFD);
  }

  Status maps(const image::Process& process) const {
    uint64_t last = 0;
    for (const image::Vma& vma : process.vmas()) {
      if (vma.start() % kPageSize != 0 || vma.end() % kPageSize != 0 || vma.start() >= vma.end() ||
          vma.start() < last || vma.end() > kUserEnd) {
        return wrong("map {:#x}-{:#x} of process {}", vma.start(), vma.end(), process.vpid());
      }
      last = vma.end();
      if (vma.protection() > 7 || vma.offset() % kPageSize != 0) {
        return wrong("map {:#x} of process {}", vma.start(), process.vpid());
      }
      if (vma.huge_page_size() != 0 && !huge_pages(vma)) {
        return wrong("map {:#x} of process {} cannot be of huge pages of {} bytes", vma.start(),
                     process.vpid(), vma.huge_page_size());
      }
      if (vma.backing() == image::Vma::FILE && !absolute(vma.path())) {
        return wrong("map {:#x} of process {} has no path", vma.start(), process.vpid());
      }
      if (vma.backing() == image::Vma::OBJECT && !object_ids_.contains(vma.object_id())) {
        return wrong("map {:#x} of process {} has no object", vma.start(), process.vpid());
      }
    }
    if (!absolute(process.mm().exe()) || !absolute(process.cwd())) {
      return wrong("the executable or directory of process {}", process.vpid());
    }
    if (process.mm().auxv().size() > 4096) return wrong("the auxv of process {}", process.vpid());
    return Status::ok();
  }

  Status contents(const image::Process& process) const {
    const MemoryId id{MemoryId::Kind::kProcess, static_cast<uint64_t>(process.vpid())};
    for (const MemoryRegion& region : memory_) {
      if (region.id != id) continue;
      for (const Extent& extent : region.extents) {
        if (!inside_maps(process, extent)) {
          return wrong("memory {:#x} of process {} lies in no map", extent.address, process.vpid());
        }
      }
      return Status::ok();
    }
    return wrong("there is no memory of process {}", process.vpid());
  }

  static bool inside_maps(const image::Process& process, const Extent& extent) {
    uint64_t at = extent.address;
    const uint64_t end = extent.address + extent.length;
    for (const image::Vma& vma : process.vmas()) {
      if (vma.end() <= at) continue;
      if (vma.start() > at || vma.shared()) return false;
      at = vma.end();
      if (at >= end) return true;
    }
    return false;
  }

  Status descriptors(const image::Process& process) const {
    std::set<int> seen;
    for (const image::Fd& entry : process.fds()) {
      if (entry.fd() < 0 || entry.fd() >= kMostFd || !seen.insert(entry.fd()).second ||
          !file_ids_.contains(entry.file_id())) {
        return wrong("descriptor {} of process {}", entry.fd(), process.vpid());
      }
    }
    for (const image::FileLock& lock : process.posix_locks()) {
      if (!file_ids_.contains(lock.file_id())) return wrong("a lock of process {}", process.vpid());
    }
    return Status::ok();
  }

  static Status siginfo(const image::PendingSignal& pending) {
    siginfo_t info{};
    if (pending.siginfo().size() != sizeof info) return wrong("a pending signal");
    std::copy(pending.siginfo().begin(), pending.siginfo().end(), reinterpret_cast<char*>(&info));
    if (info.si_signo < 1 || info.si_signo > kSignals) return wrong("signal {}", info.si_signo);
    return Status::ok();
  }

  static Status signals(const image::Process& process) {
    for (const image::SignalAction& action : process.actions()) {
      if (action.signo() < 1 || action.signo() > kSignals)
        return wrong("signal {}", action.signo());
    }
    for (const image::PendingSignal& pending : process.pending()) FERMATA_TRY(siginfo(pending));
    if (process.posix_timers_size() > kMostTimers) {
      return wrong("process {} has {} timers", process.vpid(), process.posix_timers_size());
    }
    for (const image::PosixTimer& timer : process.posix_timers()) {
      if (timer.id() < 0) return wrong("timer {} of process {}", timer.id(), process.vpid());
    }
    return Status::ok();
  }

  const image::PodObjects& objects_;
  const std::vector<MemoryRegion>& memory_;
  std::set<uint32_t> object_ids_;
  std::set<uint32_t> file_ids_;
  std::set<int> creators_;
  std::set<int> pids_;
  std::set<int> living_;
  std::map<int, int> parents_;
};

}  // namespace

Status validate(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory) {
  return Validator(objects, memory).run();
}

}  // namespace fermata::engine
