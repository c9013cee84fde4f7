#include "numa/plan.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "common/file_util.h"
#include "common/memory_image.h"
#include "common/size_parse.h"
#include "numa/number_list.h"
#include "numa/page_plan.h"
#include "numa/thread_plan.h"

namespace fermata::numa {
namespace {

// More than this of calls comes from no machine: page_nodes.h bounds the runs of a range, and the
// kernel has 65530 maps a process.
constexpr size_t kMaxCalls = 1'000'000;
constexpr uint64_t kMostBytes = uint64_t{1} << 56;
constexpr int kWeightedInterleave = 6;  // MPOL_WEIGHTED_INTERLEAVE, since Linux 6.9

Status check_range(const image::RangePlacement& range, uint64_t after) {
  if (range.start() % kPageSize != 0 || range.end() % kPageSize != 0 ||
      range.start() >= range.end() || range.start() < after) {
    return {Code::kDamaged,
            fmt::format("placement of {:#x}-{:#x} makes no sense", range.start(), range.end())};
  }
  if (range.policy_mode() > 0 && !is_known_mode(range.policy_mode())) {
    return {Code::kDamaged, fmt::format("memory policy {:#x} does not exist", range.policy_mode())};
  }
  uint64_t end = range.start();
  for (const image::PageRun& run : range.runs()) {
    if (run.start() < end || run.start() % kPageSize != 0 || run.length() % kPageSize != 0 ||
        run.length() == 0 || run.start() >= range.end() ||
        run.length() > range.end() - run.start() || run.bytes() > run.length()) {
      return {Code::kDamaged,
              fmt::format("pages at {:#x} are placed out of their range", run.start())};
    }
    end = run.start() + run.length();
  }
  return {};
}

bool is_huge(const image::PageRun& run) {
  return run.start() % kHugePage == 0 && run.length() % kHugePage == 0;
}

/// What of a run may be in huge pages, and what is before and after it.
std::vector<image::PageRun> at_huge_pages(const image::PageRun& run) {
  const uint64_t end = run.start() + run.length();
  const uint64_t first = (run.start() + kHugePage - 1) / kHugePage * kHugePage;
  const uint64_t last = end / kHugePage * kHugePage;
  if (first >= last || is_huge(run)) return {run};
  std::vector<image::PageRun> parts;
  if (first > run.start()) parts.push_back(part_of(run, run.start(), first));
  parts.push_back(part_of(run, first, last));
  if (end > last) parts.push_back(part_of(run, last, end));
  uint64_t bytes = bytes_of(run);
  for (size_t i = 0; i + 1 < parts.size(); ++i) bytes -= parts[i].bytes();
  parts.back().set_bytes(bytes);
  return parts;
}

class Planner {
 public:
  Planner(const image::Placement& saved, const Topology& current, const Allowed& allowed, Mode mode)
      : saved_(saved), current_(current), mode_(mode), now_{current.machine, allowed} {
    for (const int node : current.machine.node_numbers()) {
      if (allowed.nodes.empty() || contains(allowed.nodes, node)) usable_.push_back(node);
    }
  }

  Status run() {
    FERMATA_TRY(read_before());
    choose_mapping();
    FERMATA_TRY(threads());
    FERMATA_TRY(pages());
    plan_.planned.set_numa_nodes(current_.numa_nodes);
    plan_.planned.set_topology_signature(current_.signature);
    *plan_.planned.mutable_machine() = record_of(current_.machine);
    plan_.planned.set_allowed_cpus(format_list(now_.allowed.cpus));
    plan_.planned.set_allowed_nodes(format_list(now_.allowed.nodes));
    FERMATA_ASSIGN_STATUS(plan_.before, locality_of(saved_, before_.machine));
    FERMATA_ASSIGN_STATUS(plan_.after, locality_of(plan_.planned, current_.machine));
    return {};
  }

  Plan take() { return std::move(plan_); }

 private:
  Status read_before() {
    if (saved_.has_machine()) {
      FERMATA_ASSIGN_STATUS(before_.machine, machine_of(saved_.machine()));
    } else {
      before_.machine = current_.machine;  // its signature is this machine's
    }
    FERMATA_ASSIGN_STATUS(before_.allowed.cpus, parse_list(saved_.allowed_cpus()));
    FERMATA_ASSIGN_STATUS(before_.allowed.nodes, parse_list(saved_.allowed_nodes()));
    for (const image::ThreadPlacement& thread : saved_.threads()) {
      const std::string name = name_of(thread);
      auto cpus = parse_list(thread.cpuset());
      if (!cpus) return cpus.error().within(name);
      if (!is_known_mode(std::max(0, thread.policy_mode()))) {
        return Status(Code::kDamaged,
                      fmt::format("memory policy {:#x} does not exist", thread.policy_mode()))
            .within(name);
      }
      cpus_.push_back(*std::move(cpus));
      if (is_bound(cpus_.back())) unite(usage_.cpus, cpus_.back());
    }
    uint64_t bytes = 0;
    for (const image::ProcessPlacement& process : saved_.processes()) {
      uint64_t end = 0;
      for (const image::RangePlacement& range : process.ranges()) {
        if (Status valid = check_range(range, end); !valid) return valid.within(name_of(process));
        end = range.end();
        for (const image::PageRun& run : range.runs()) {
          auto nodes = nodes_of(run);
          if (!nodes) return nodes.error().within(name_of(process));
          for (const int node : *nodes) usage_.bytes[node] += bytes_of(run) / nodes->size();
          bytes += bytes_of(run);
          if (bytes_of(run) > kMostBytes || bytes > kMostBytes) {
            return {Code::kDamaged, "more memory than any machine has"};
          }
        }
      }
    }
    return {};
  }

  /// One that may run everywhere goes on doing so.
  bool is_bound(const Numbers& cpus) const {
    const Numbers all =
        before_.allowed.cpus.empty() ? before_.machine.cpus() : before_.allowed.cpus;
    return !includes(cpus, all);
  }

  void choose_mapping() {
    if (mode_ == Mode::kReplan) {
      mapping_ = map_machines(before_, usage_, now_);
      plan_.how = kind_name(mapping_.kind);
      return;
    }
    plan_.how = "kept";
    for (const int node : usable_) mapping_.node[node] = {node};
    const Numbers here = allowed_cpus();
    for (const int cpu : intersection(usage_.cpus, here)) mapping_.cpu[cpu] = cpu;
  }

  Numbers allowed_cpus() const {
    const Numbers all = current_.machine.cpus();
    return now_.allowed.cpus.empty() ? all : now_.allowed.cpus;
  }

  static std::string name_of(const image::ThreadPlacement& thread) {
    return fmt::format("thread {} of process {}", thread.vtid(), thread.vpid());
  }
  static std::string name_of(const image::ProcessPlacement& process) {
    return fmt::format("process {}", process.vpid());
  }

  Status threads() {
    const ThreadPlan thread_plan(mapping_, before_, now_, mode_ == Mode::kReplan);
    const Numbers all_before = before_nodes();
    page_plan_ = std::make_unique<PagePlan>(mapping_, before_.machine, current_.machine, all_before,
                                            usable_);
    for (int i = 0; i < saved_.threads_size(); ++i) {
      const image::ThreadPlacement& thread = saved_.threads(i);
      const Numbers& had = cpus_[static_cast<size_t>(i)];
      const bool bound = is_bound(had);
      Numbers cpus = bound ? thread_plan.cpus_for(had) : allowed_cpus();
      if (cpus.empty()) {
        plan_.notes.push_back(
            fmt::format("{} was bound to CPUs {}, none of which may be used here: it runs unbound",
                        name_of(thread), thread.cpuset()));
        cpus = allowed_cpus();
      }
      if (bound && mode_ == Mode::kReplan) page_plan_->add_thread(thread.vpid(), had);
      image::ThreadPlacement* planned = plan_.planned.add_threads();
      *planned = thread;
      planned->set_cpuset(format_list(cpus));
      plan_.affinity.push_back({thread.vpid(), thread.vtid(), std::move(cpus)});
      FERMATA_TRY(thread_policy(thread, *planned));
    }
    return {};
  }

  /// Nodes that were to be used; what was spread over all of them is spread over all here.
  Numbers before_nodes() const {
    if (mode_ == Mode::kKeep) return {};
    const Numbers all = before_.machine.node_numbers();
    return before_.allowed.nodes.empty() ? all : intersection(all, before_.allowed.nodes);
  }

  Status thread_policy(const image::ThreadPlacement& thread, image::ThreadPlacement& planned) {
    if (thread.policy_mode() < 0) return {};
    Result<std::optional<Numbers>> nodes =
        policy_nodes(thread.policy_mode(), thread.policy_nodes());
    if (!nodes) return nodes.error().within(name_of(thread));
    if (!*nodes) {
      plan_.notes.push_back(fmt::format(
          "the memory policy of {} names nodes {}, none of which may be used here: dropped",
          name_of(thread), thread.policy_nodes()));
      planned.set_policy_mode(MPOL_DEFAULT);
      planned.clear_policy_nodes();
      return {};
    }
    planned.set_policy_nodes(format_list(**nodes));
    plan_.thread_policies.push_back(
        set_mempolicy_call(thread.vpid(), thread.vtid(), thread.policy_mode(), **nodes));
    return {};
  }

  /// nullopt: none of its nodes may be used.
  Result<std::optional<Numbers>> policy_nodes(int mode, const std::string& list) const {
    FERMATA_ASSIGN(Numbers nodes, parse_list(list));
    // Relative nodes are counted within whatever is allowed.
    if (nodes.empty() || (mode & MPOL_F_RELATIVE_NODES) != 0) {
      return std::optional<Numbers>(std::move(nodes));
    }
    Numbers images = page_plan_->images_of(nodes);
    if (images.empty()) return std::optional<Numbers>();
    // It names one node; of several images the first has most of it.
    if (plain_mode(mode) == MPOL_PREFERRED && images.size() > 1) {
      images = {page_plan_->primary_of(nodes)};
    }
    return std::optional<Numbers>(std::move(images));
  }

  Status pages() {
    for (const image::ProcessPlacement& process : saved_.processes()) {
      for (const image::RangePlacement& range : process.ranges()) {
        for (const image::PageRun& run : range.runs()) {
          if (run.nodes().empty() && !range.shared()) {
            page_plan_->add_run(process.vpid(), run, run.node());
          }
        }
      }
    }
    for (const image::ProcessPlacement& process : saved_.processes()) {
      image::ProcessPlacement* planned = plan_.planned.add_processes();
      planned->set_vpid(process.vpid());
      for (const image::RangePlacement& range : process.ranges()) {
        Status status = add_range(process.vpid(), range, *planned->add_ranges());
        if (!status) return status.within(name_of(process));
        if (plan_.before_contents.size() + plan_.after_contents.size() > kMaxCalls) {
          return Status(Code::kDamaged, "its placement has no end").within(name_of(process));
        }
      }
      note_missing_nodes(name_of(process));
    }
    return {};
  }

  Status add_range(int vpid, const image::RangePlacement& range, image::RangePlacement& planned) {
    planned.set_start(range.start());
    planned.set_end(range.end());
    planned.set_shared(range.shared());
    planned.set_policy_mode(-1);
    const int policy = range.policy_mode() > 0 ? plain_mode(range.policy_mode()) : MPOL_DEFAULT;
    const bool interleaved = policy == MPOL_INTERLEAVE || policy == kWeightedInterleave;
    FERMATA_ASSIGN_STATUS(const Numbers over, parse_list(range.policy_nodes()));
    for (const image::PageRun& run : range.runs()) {
      for (const image::PageRun& part : interleaved ? at_huge_pages(run) : std::vector{run}) {
        FERMATA_ASSIGN_STATUS(Numbers nodes, nodes_of(part));
        // Over what its policy says: all of it in another shape, else what is not in whole huge
        // pages. Of few small pages the survey may have met one node alone.
        const bool spread =
            nodes.size() > 1 || !is_huge(part) || mapping_.kind == Mapping::Kind::kRegrouped;
        if (interleaved && spread && includes(over, nodes)) nodes = over;
        std::vector<image::PageRun> places = page_plan_->place(vpid, part, nodes, range.shared());
        if (places.empty()) {
          missing_nodes_.insert(nodes.begin(), nodes.end());
          missing_bytes_ += bytes_of(part);
        }
        for (image::PageRun& place : places) add_run(std::move(place), planned);
      }
    }
    bool placed = false;
    // Shared pages are filled elsewhere, before this process is there: they are moved afterwards.
    if (current_.numa_nodes > 1 && !range.shared()) {
      for (const image::PageRun& run : planned.runs()) {
        FERMATA_ASSIGN_STATUS(const Numbers nodes, nodes_of(run));
        // Preferred: where the node is full, pages land elsewhere and the restart goes on.
        const int mode = nodes.size() > 1 ? MPOL_INTERLEAVE : MPOL_PREFERRED;
        plan_.before_contents.push_back(
            mbind_call(vpid, run.start(), run.start() + run.length(), mode, nodes));
        placed = true;
      }
    }
    if (range.policy_mode() > 0) {
      FERMATA_ASSIGN_STATUS(const std::optional<Numbers> nodes,
                            policy_nodes(range.policy_mode(), range.policy_nodes()));
      if (nodes) {
        planned.set_policy_mode(range.policy_mode());
        planned.set_policy_nodes(format_list(*nodes));
        plan_.after_contents.push_back(
            mbind_call(vpid, range.start(), range.end(), range.policy_mode(), *nodes));
        return {};
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
    return {};
  }

  static void add_run(image::PageRun run, image::RangePlacement& planned) {
    if (planned.runs_size() > 0) {
      image::PageRun& last = *planned.mutable_runs(planned.runs_size() - 1);
      const bool adjacent = last.start() + last.length() == run.start();
      if (adjacent && last.node() == run.node() && last.nodes() == run.nodes()) {
        last.set_bytes(bytes_of(last) + bytes_of(run));
        last.set_length(last.length() + run.length());
        return;
      }
    }
    *planned.add_runs() = std::move(run);
  }

  void note_missing_nodes(const std::string& name) {
    if (missing_nodes_.empty()) return;
    const Numbers nodes(missing_nodes_.begin(), missing_nodes_.end());
    plan_.notes.push_back(
        fmt::format("{} of {} were on nodes {}, which may not be used here: they land where the "
                    "kernel puts them",
                    format_size(missing_bytes_), name, format_list(nodes)));
    plan_.bytes_not_allowed += missing_bytes_;
    missing_nodes_.clear();
    missing_bytes_ = 0;
  }

  const image::Placement& saved_;
  const Topology& current_;
  Mode mode_;
  Side before_;
  Side now_;
  Numbers usable_;             // nodes
  std::vector<Numbers> cpus_;  // of each saved thread
  Usage usage_;
  Mapping mapping_;
  std::unique_ptr<PagePlan> page_plan_;
  std::set<int> missing_nodes_;
  uint64_t missing_bytes_ = 0;
  Plan plan_;
};

}  // namespace

Result<Mode> parse_mode(std::string_view text) {
  if (text == "keep") return Mode::kKeep;
  if (text == "replan") return Mode::kReplan;
  if (text == "ignore") return Mode::kIgnore;
  return failure(Code::kUsage, fmt::format("--numa {}: must be keep, replan or ignore", text));
}

Result<Allowed> allowed_of(pid_t pid) {
  Allowed allowed;
  FERMATA_ASSIGN(allowed.cpus, affinity_of(pid));
  FERMATA_ASSIGN(const std::string status,
                 read_file(pid == 0 ? "/proc/self/status" : fmt::format("/proc/{}/status", pid)));
  constexpr std::string_view kKey = "Mems_allowed_list:\t";
  const size_t at = status.find(kKey);
  if (at == std::string::npos) return allowed;  // a kernel without cpusets: all nodes
  const std::string_view rest = std::string_view(status).substr(at + kKey.size());
  FERMATA_ASSIGN(allowed.nodes, parse_list(rest.substr(0, rest.find('\n'))));
  return allowed;
}

Result<Allowed> allowed_here() { return allowed_of(0); }

Result<Plan> plan_placement(const image::Placement& saved, const Topology& current,
                            const Allowed& allowed, Mode mode) {
  if (mode == Mode::kIgnore) return Plan{};
  if (!saved.has_machine() && saved.topology_signature() != current.signature) {
    Plan plan;
    plan.notes.emplace_back(
        "this machine's topology is not the one of the checkpoint: CPU bindings, memory policies "
        "and the placement of pages are dropped");
    return plan;
  }
  Planner planner(saved, current, allowed, mode);
  FERMATA_TRY_RESULT(planner.run().within("placement"));
  return planner.take();
}

}  // namespace fermata::numa
