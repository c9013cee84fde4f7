#include "numa/plan.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "common/file_util.h"
#include "common/memory_image.h"
#include "numa/number_list.h"

namespace fermata::numa {
namespace {

constexpr int kModeFlags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING;
constexpr int kHighestMode = 6;  // MPOL_WEIGHTED_INTERLEAVE, since Linux 6.9
// More than this of calls comes from no machine: kMaxRuns a range, and the kernel has 65530 maps a
// process.
constexpr size_t kMaxCalls = 1'000'000;

std::vector<int> within(const std::vector<int>& wanted, const std::vector<int>& allowed) {
  if (allowed.empty()) return wanted;
  std::vector<int> both;
  std::set_intersection(wanted.begin(), wanted.end(), allowed.begin(), allowed.end(),
                        std::back_inserter(both));
  return both;
}

std::vector<uint64_t> mask_of(const std::vector<int>& nodes) {
  std::vector<uint64_t> words;
  for (const int node : nodes) {
    const auto word = static_cast<size_t>(node) / 64;
    if (words.size() <= word) words.resize(word + 1);
    words[word] |= uint64_t{1} << (node % 64);
  }
  return words;
}

// The kernel takes one bit less than it is told of (get_mempolicy(2), BUGS).
uint64_t bits_of(const std::vector<uint64_t>& mask) { return mask.size() * 64 + 1; }

PlannedCall mbind_call(int vpid, uint64_t start, uint64_t end, int mode,
                       const std::vector<int>& nodes) {
  PlannedCall call;
  call.vpid = vpid;
  call.vtid = vpid;
  call.number = SYS_mbind;
  call.nodemask = mask_of(nodes);
  call.mask_argument = call.nodemask.empty() ? -1 : 3;
  call.args = {start,
               end - start,
               static_cast<uint64_t>(mode),
               0,
               call.nodemask.empty() ? 0 : bits_of(call.nodemask),
               0};
  return call;
}

PlannedCall set_mempolicy_call(int vpid, int vtid, int mode, const std::vector<int>& nodes) {
  PlannedCall call;
  call.vpid = vpid;
  call.vtid = vtid;
  call.number = SYS_set_mempolicy;
  call.nodemask = mask_of(nodes);
  call.mask_argument = call.nodemask.empty() ? -1 : 1;
  call.args = {static_cast<uint64_t>(mode), 0, call.nodemask.empty() ? 0 : bits_of(call.nodemask)};
  return call;
}

// A saved policy inside what is allowed.
struct Policy {
  int mode = MPOL_DEFAULT;
  std::vector<int> nodes;
  bool dropped = false;  // none of its nodes may be used
};

Result<Policy> policy_within(int mode, const std::string& list, const Allowed& allowed) {
  const int plain = mode & ~kModeFlags;
  if (plain < 0 || plain > kHighestMode) {
    return failure(Code::kDamaged, fmt::format("memory policy {:#x} does not exist", mode));
  }
  Policy policy;
  policy.mode = mode;
  FERMATA_ASSIGN(const std::vector<int> saved, parse_list(list));
  // Relative nodes are counted within whatever is allowed.
  policy.nodes = (mode & MPOL_F_RELATIVE_NODES) != 0 ? saved : within(saved, allowed.nodes);
  policy.dropped = !saved.empty() && policy.nodes.empty();
  return policy;
}

class Planner {
 public:
  Planner(const Topology& current, const Allowed& allowed) : current_(current), allowed_(allowed) {}

  Status add(const image::ThreadPlacement& thread) {
    const std::string name = fmt::format("thread {} of process {}", thread.vtid(), thread.vpid());
    auto cpus = parse_list(thread.cpuset());
    if (!cpus) return cpus.error().within(name);
    std::vector<int> usable = within(*cpus, allowed_.cpus);
    if (!usable.empty()) {
      plan_.affinity.push_back({thread.vpid(), thread.vtid(), std::move(usable)});
    } else if (!cpus->empty()) {
      plan_.notes.push_back(
          fmt::format("{} was bound to CPUs {}, none of which may be used here: "
                      "it runs unbound",
                      name, thread.cpuset()));
    }
    if (thread.policy_mode() < 0) return Status::ok();
    auto policy = policy_within(thread.policy_mode(), thread.policy_nodes(), allowed_);
    if (!policy) return policy.error().within(name);
    if (policy->dropped) {
      plan_.notes.push_back(
          fmt::format("the memory policy of {} names nodes {}, none of which may "
                      "be used here: dropped",
                      name, thread.policy_nodes()));
      return Status::ok();
    }
    plan_.thread_policies.push_back(
        set_mempolicy_call(thread.vpid(), thread.vtid(), policy->mode, policy->nodes));
    return Status::ok();
  }

  Status add(const image::ProcessPlacement& process) {
    const std::string name = fmt::format("process {}", process.vpid());
    uint64_t end = 0;
    for (const image::RangePlacement& range : process.ranges()) {
      if (range.start() % kPageSize != 0 || range.end() % kPageSize != 0 ||
          range.start() >= range.end() || range.start() < end) {
        return {Code::kDamaged, fmt::format("{}: placement of {:#x}-{:#x} makes no sense", name,
                                            range.start(), range.end())};
      }
      end = range.end();
      if (Status status = add_range(process.vpid(), range); !status) return status.within(name);
      if (plan_.before_contents.size() + plan_.after_contents.size() > kMaxCalls) {
        return {Code::kDamaged, fmt::format("{}: its placement has no end", name)};
      }
    }
    note_missing_nodes(name);
    return Status::ok();
  }

  Plan take() { return std::move(plan_); }

 private:
  Status add_range(int vpid, const image::RangePlacement& range) {
    bool placed = false;
    uint64_t end = range.start();
    for (const image::PageRun& run : range.runs()) {
      if (run.start() < end || run.start() % kPageSize != 0 || run.length() % kPageSize != 0 ||
          run.length() == 0 || run.start() >= range.end() ||
          run.length() > range.end() - run.start() || run.node() < 0 || run.node() >= kMaxNumber) {
        return {Code::kDamaged,
                fmt::format("pages at {:#x} are placed out of their range", run.start())};
      }
      end = run.start() + run.length();
      if (current_.numa_nodes < 2) continue;  // there is one place for all pages
      if (within({run.node()}, allowed_.nodes).empty()) {
        missing_nodes_.insert(run.node());
        continue;
      }
      // Preferred: where the node is full, pages land elsewhere and the restart goes on.
      plan_.before_contents.push_back(
          mbind_call(vpid, run.start(), end, MPOL_PREFERRED, {run.node()}));
      placed = true;
    }
    if (range.policy_mode() > 0) {
      FERMATA_ASSIGN_STATUS(const Policy policy,
                            policy_within(range.policy_mode(), range.policy_nodes(), allowed_));
      if (!policy.dropped) {
        plan_.after_contents.push_back(
            mbind_call(vpid, range.start(), range.end(), policy.mode, policy.nodes));
        return Status::ok();
      }
      plan_.notes.push_back(fmt::format(
          "the memory policy of {:#x}-{:#x} of process {} names nodes {}, none of which may be "
          "used here: dropped",
          range.start(), range.end(), vpid, range.policy_nodes()));
    }
    if (placed) {
      plan_.after_contents.push_back(
          mbind_call(vpid, range.start(), range.end(), MPOL_DEFAULT, {}));
    }
    return Status::ok();
  }

  void note_missing_nodes(const std::string& name) {
    if (missing_nodes_.empty()) return;
    const std::vector<int> nodes(missing_nodes_.begin(), missing_nodes_.end());
    plan_.notes.push_back(
        fmt::format("pages of {} were on nodes {}, which may not be used here: "
                    "they land where the kernel puts them",
                    name, format_list(nodes)));
    missing_nodes_.clear();
  }

  const Topology& current_;
  const Allowed& allowed_;
  std::set<int> missing_nodes_;
  Plan plan_;
};

}  // namespace

Result<Mode> parse_mode(std::string_view text) {
  if (text == "keep") return Mode::kKeep;
  if (text == "replan") return Mode::kReplan;
  if (text == "ignore") return Mode::kIgnore;
  return failure(Code::kUsage, fmt::format("--numa {}: must be keep, replan or ignore", text));
}

Result<Allowed> allowed_here() {
  Allowed allowed;
  FERMATA_ASSIGN(allowed.cpus, affinity_of(0));
  FERMATA_ASSIGN(const std::string status, read_file("/proc/self/status"));
  constexpr std::string_view kKey = "Mems_allowed_list:\t";
  const size_t at = status.find(kKey);
  if (at == std::string::npos) return allowed;  // a kernel without cpusets: all nodes
  const std::string_view rest = std::string_view(status).substr(at + kKey.size());
  FERMATA_ASSIGN(allowed.nodes, parse_list(rest.substr(0, rest.find('\n'))));
  return allowed;
}

Result<Plan> plan_placement(const image::Placement& saved, const Topology& current,
                            const Allowed& allowed) {
  if (saved.topology_signature() != current.signature) {
    Plan plan;
    plan.notes.emplace_back(
        "this machine's topology is not the one of the checkpoint: CPU bindings, memory policies "
        "and the placement of pages are dropped");
    return plan;
  }
  Planner planner(current, allowed);
  for (const image::ThreadPlacement& thread : saved.threads()) {
    FERMATA_TRY_RESULT(planner.add(thread).within("placement"));
  }
  for (const image::ProcessPlacement& process : saved.processes()) {
    FERMATA_TRY_RESULT(planner.add(process).within("placement"));
  }
  Plan plan = planner.take();
  plan.planned = saved;
  return plan;
}

}  // namespace fermata::numa
