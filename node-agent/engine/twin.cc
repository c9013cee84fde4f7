#include "node-agent/engine/twin.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include "common/extents.h"
#include "common/log.h"
#include "node-agent/engine/address_space.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/exclusive_pages.h"
#include "node-agent/engine/pages.h"
#include "node-agent/engine/twin_ends.h"
#include "node-agent/engine/twin_reader.h"

namespace fermata::engine {
namespace {

/// A twin in our hands. Its end is ours to wait for first, PID 1's then.
class Twin {
 public:
  explicit Twin(pid_t pid) : pid_(pid) {}
  Twin(const Twin&) = delete;
  Twin& operator=(const Twin&) = delete;
  ~Twin() {
    if (left_behind_) {
      end_twin(pid_);
      return;
    }
    ::kill(pid_, SIGKILL);
    reap_tracees({pid_});
  }

  pid_t pid() const { return pid_; }
  /// The pod is let go and the twin stays: from now on PID 1 can wait for it.
  void leave_behind() { left_behind_ = true; }

 private:
  pid_t pid_;
  bool left_behind_ = false;
};

class TwinSource final : public MemorySource {
 public:
  TwinSource(std::shared_ptr<Twin> twin, std::shared_ptr<const MemorySource> memory)
      : twin_(std::move(twin)), memory_(std::move(memory)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    if (reader_ && reader_->copy(address, out)) return Status::ok();
    FERMATA_TRY(memory_->read(address, out));
    if (reader_) reader_->was_read(address, out.size());
    return Status::ok();
  }
  void read_once(const Extents& extents) const override {
    once_ = extents;
    Result<ExclusivePages> exclusive = ExclusivePages::open(twin_->pid());
    if (exclusive) exclusive_ = *std::move(exclusive);
  }
  uint64_t frees(uint64_t address, uint64_t length) const override {
    return exclusive_ ? exclusive_->bytes(address, length) : 0;
  }
  void prepare_reads_into(const SharedBuffer& buffer) const override {
    reader_.reset();
    Result<std::unique_ptr<TwinReader>> reader =
        TwinReader::start(twin_->pid(), buffer, once_ ? &*once_ : nullptr);
    if (reader) {
      reader_ = *std::move(reader);
    } else {
      log_debug(
          fmt::format("a twin cannot copy its memory by itself, so it is read through /proc: {}",
                      reader.error().message()));
    }
  }

 private:
  std::shared_ptr<Twin> twin_;  // outlives the reading of it
  std::shared_ptr<const MemorySource> memory_;
  // All three are set before any read.
  mutable std::optional<Extents> once_;
  mutable std::optional<ExclusivePages> exclusive_;
  mutable std::unique_ptr<TwinReader> reader_;
};

/// Takes hold of a twin that sleeps.
Result<std::shared_ptr<Twin>> take(pid_t pid) {
  FERMATA_TRY_RESULT(seize(pid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD));
  auto twin = std::make_shared<Twin>(pid);
  FERMATA_TRY_RESULT(interrupt(pid));
  FERMATA_ASSIGN([[maybe_unused]] const Stop stop, wait_stop(pid));
  // Where memory runs out it is the twin that goes, and the set with it, not the job.
  std::ofstream(fmt::format("/proc/{}/oom_score_adj", pid)) << 1000;
  return twin;
}

/// Twins by the PID in the pod of who they are of.
using Twins = std::map<int, std::shared_ptr<Twin>>;

/// Waits for the twins that were begun; `wanted` gets the PIDs in the pod of twin and original.
Status end_all(std::vector<HeldProcess>& held, std::map<int, int>& wanted) {
  Status first;
  for (HeldProcess& process : held) {
    if (!std::exchange(process.twin_begun, false)) continue;
    const Result<int> twin = process.leader().remote->end_twin();
    if (twin) {
      wanted[*twin] = process.vpid;
    } else if (first) {
      first = twin.error().within(process.describe());
    }
  }
  return first;
}

/// Has every process make its twin that did not begin yet.
Status fork_all(std::vector<HeldProcess>& held, std::map<int, int>& wanted) {
  Status begun;
  for (HeldProcess& process : held) {
    if (begun && !process.zombie && !process.twin_begun) begun = begin_twin(process);
  }
  const Status ended = end_all(held, wanted);
  return begun ? ended : begun;
}

/// Finds those of `wanted` by their PID in the pod and takes hold of each that can be had.
Status take_all(const std::filesystem::path& group, const std::vector<HeldProcess>& held,
                const std::map<int, int>& wanted, Twins& twins) {
  FERMATA_ASSIGN_STATUS(const std::vector<pid_t> pids, group_processes(group));
  Status first;
  for (const pid_t pid : pids) {
    const bool known = std::any_of(held.begin(), held.end(),
                                   [&](const HeldProcess& process) { return process.pid == pid; });
    if (known) continue;
    const Result<ProcStatus> status = read_status(pid, pid);
    if (!status) continue;  // another's, and ended
    const auto original = wanted.find(status->vpid);
    if (original == wanted.end()) continue;
    Result<std::shared_ptr<Twin>> twin = take(pid);
    if (twin) {
      twins[original->second] = *std::move(twin);
    } else if (first) {
      first = twin.error();
    }
  }
  if (!first || twins.size() == wanted.size()) return first;
  return {Code::kGone, "a copy-on-write twin ended before it could be read"};
}

struct Range {
  uint64_t start;
  uint64_t end;
};

/// What a twin of the process has not, in ascending order.
std::vector<Range> left_out(const image::PodObjects& objects, int vpid) {
  std::vector<Range> ranges;
  for (const image::Process& process : objects.processes()) {
    if (process.vpid() != vpid) continue;
    for (const image::Vma& vma : process.vmas()) {
      if (is_left_out(vma)) ranges.push_back({vma.start(), vma.end()});
    }
  }
  return ranges;
}

/// Has the twins give up memory of MAP_HUGETLB, before the pod runs on: for a page that both had
/// and the process writes to, it would need another one, which there may not be (hugetlb_wp() of
/// mm/hugetlb.c takes the page from a child then, or ends the process).
Status drop_huge_pages(std::vector<HeldProcess>& held, const image::PodObjects& objects,
                       const Twins& twins) {
  for (const image::Process& process : objects.processes()) {
    Extents huge;
    for (const image::Vma& vma : process.vmas()) {
      if (vma.huge_page_size() != 0) append(huge, vma.start(), vma.end() - vma.start());
    }
    const auto original = std::find_if(held.begin(), held.end(), [&](const HeldProcess& one) {
      return one.vpid == process.vpid();
    });
    if (huge.empty() || original == held.end()) continue;
    FERMATA_TRY(unmap_in_twin(twins.at(process.vpid())->pid(), original->site->code(), huge)
                    .within(original->describe()));
  }
  return Status::ok();
}

/// The parts of `extents` that lie in `ranges`.
std::vector<Extent> inside(const std::vector<Extent>& extents, const std::vector<Range>& ranges) {
  std::vector<Extent> out;
  for (const Extent& extent : extents) {
    for (const Range& range : ranges) {
      const uint64_t start = std::max(extent.address, range.start);
      const uint64_t end = std::min(extent.address + extent.length, range.end);
      if (start < end && extent.where == Where::kHere) out.push_back({start, end - start});
    }
  }
  return out;
}

}  // namespace

Status begin_twin(HeldProcess& process) {
  Result<CaptureRemote*> remote = remote_of(process, process.leader());
  Status begun = remote ? (*remote)->begin_twin() : remote.error();
  if (!begun) return begun.within(process.describe());
  process.twin_begun = true;
  return begun;
}

void drop_twins(const std::filesystem::path& group, std::vector<HeldProcess>& held) {
  const bool any = std::any_of(held.begin(), held.end(),
                               [](const HeldProcess& process) { return process.twin_begun; });
  if (!any) return;
  std::map<int, int> wanted;
  Twins twins;
  // One that cannot be taken ends by itself.
  static_cast<void>(end_all(held, wanted));
  static_cast<void>(take_all(group, held, wanted, twins));
  // All at once, and the pod does not stand for as long as that takes.
  for (const auto& [vpid, twin] : twins) twin->leave_behind();
}

Status find_in_twins(const std::vector<UnfoundPages>& unfound, std::vector<MemoryRegion>& regions) {
  Status found = find_and_add(unfound, regions);
  for (const UnfoundPages& of : unfound) {
    // Where memory runs out the kernel kills first and takes the pages then: of a twin that still
    // stands in our stop all were found.
    const Result<ProcStat> stat = ProcStat::read(of.pid);
    if (!stat || stat->state() != 't') {
      return {Code::kGone, "a copy-on-write twin ended before its pages were found"};
    }
  }
  return found;
}

Result<TwinMemory> make_twins(const std::filesystem::path& group, std::vector<HeldProcess>& held,
                              const image::PodObjects& objects,
                              const std::vector<MemoryRegion>& memory,
                              const std::vector<UnfoundPages>& unfound) {
  std::map<int, int> wanted;
  const Status forked = fork_all(held, wanted);
  Twins twins;
  const Status taken = take_all(group, held, wanted, twins);
  if (!forked) return Failure(forked);
  if (!taken) return Failure(taken);
  FERMATA_TRY_RESULT(drop_huge_pages(held, objects, twins));

  TwinMemory out;
  for (const MemoryRegion& region : memory) {
    if (region.id.kind != MemoryId::Kind::kProcess) {
      out.regions.push_back(region);
      out.rest.push_back(region);
      continue;
    }
    const auto vpid = static_cast<int>(region.id.id);
    const std::vector<Range> ranges = left_out(objects, vpid);
    const std::shared_ptr<Twin>& twin = twins.at(vpid);
    FERMATA_ASSIGN(std::shared_ptr<const MemorySource> bytes,
                   ProcessMemorySource::open(twin->pid()));
    out.regions.push_back(
        {region.id, region.extents, std::make_shared<TwinSource>(twin, std::move(bytes))});
    out.twins.push_back({twin->pid(), twin});
    std::vector<Extent> rest = inside(region.extents, ranges);
    if (!rest.empty()) out.rest.push_back({region.id, std::move(rest), region.source});
  }
  for (const UnfoundPages& of : unfound) {
    out.unfound.push_back({of.vpid, twins.at(of.vpid)->pid(), of.maps});
  }
  for (const auto& [vpid, twin] : twins) twin->leave_behind();
  return out;
}

}  // namespace fermata::engine
