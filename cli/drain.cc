// fermata drain and fermata undrain: nodes that take nothing new, and their jobs moved away.
#include "cli/drain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/listing.h"
#include "common/time_parse.h"
#include "proto/outcome.h"
#include "slurm/client.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using std::chrono::seconds;

constexpr size_t kJobsAtATime = 8;
constexpr seconds kProgress{10};

struct Options {
  std::vector<std::string> nodes;
  std::string reason;
  std::string deadline;
  bool force = false;
  bool json = false;
};

std::set<std::string> names_of(const Options& options) {
  std::set<std::string> names;
  for (const std::string& list : options.nodes) {
    for (std::string& name : split_names(list)) names.insert(std::move(name));
  }
  return names;
}

/// At the coordinator, and at Slurm where there is one.
Status set_drained(CoordinatorAccess& access, const std::set<std::string>& nodes, bool drain,
                   const std::string& reason) {
  wire::DrainRequest request;
  for (const std::string& node : nodes) request.add_nodes(node);
  request.set_drain(drain);
  request.set_reason(reason);
  FERMATA_ASSIGN_STATUS(const wire::NodesReply reply, access.client().drain(request));
  FERMATA_TRY(wire::to_status(reply.outcome()));
  if (!has_slurm()) return Status::ok();
  std::vector<std::string> words{drain ? "drain" : "undrain"};
  if (drain) words.push_back(reason);
  words.insert(words.end(), nodes.begin(), nodes.end());
  const Result<json> told = ask_slurm(words);
  return told ? Status::ok() : told.error();
}

bool meet(const std::vector<std::string>& names, const std::set<std::string>& nodes) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return nodes.count(name) != 0; });
}

/// Every job that has a pod on these nodes, or that Slurm has there.
Result<std::vector<Leaving>> jobs_on(CoordinatorAccess& access,
                                     const std::set<std::string>& nodes) {
  FERMATA_ASSIGN(const wire::JobsReply reply, access.client().jobs());
  FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
  std::map<std::pair<bool, uint64_t>, Leaving> jobs;
  if (has_slurm()) {
    std::vector<std::string> words{"jobs"};
    words.insert(words.end(), nodes.begin(), nodes.end());
    FERMATA_ASSIGN(const json known, ask_slurm(words));
    for (const json& job : known.value("jobs", json::array())) {
      const uint64_t number = job.value("job", uint64_t{0});
      jobs[{true, number}] = {number, {}, job.value("nodes", std::vector<std::string>()), true};
    }
  }
  // A job leaves as a whole: its steps elsewhere, too.
  std::set<std::pair<bool, uint64_t>> here;
  for (const auto& [key, job] : jobs) here.insert(key);
  for (const wire::JobInfo& info : reply.jobs()) {
    if (meet({info.nodes().begin(), info.nodes().end()}, nodes)) {
      here.insert({info.slurm(), info.job()});
    }
  }
  for (const wire::JobInfo& info : reply.jobs()) {
    const std::pair<bool, uint64_t> key{info.slurm(), info.job()};
    const std::vector<std::string> on(info.nodes().begin(), info.nodes().end());
    if (here.count(key) == 0 || (!info.slurm() && !meet(on, nodes))) continue;
    Leaving& job = jobs[key];
    job.job = info.job();
    job.slurm = info.slurm();
    job.steps.push_back({info.job(), info.step()});
    if (job.nodes.empty()) job.nodes = on;
  }
  std::vector<Leaving> leaving;
  for (auto& [key, job] : jobs) leaving.push_back(std::move(job));
  return leaving;
}

/// All jobs at once, so many at a time; each verdict is told as it comes.
class Exodus {
 public:
  Exodus(CoordinatorAccess& access, std::vector<Leaving> jobs, DrainWishes wishes, bool as_json)
      : access_(access), jobs_(std::move(jobs)), wishes_(std::move(wishes)), as_json_(as_json) {}

  std::vector<Verdict> run() {
    std::vector<std::jthread> workers;
    for (size_t i = 0; i < std::min(kJobsAtATime, jobs_.size()); ++i) {
      workers.emplace_back([this] {
        const std::unique_ptr<ControlClient> client = access_.another_client();
        work(*client);
      });
    }
    std::unique_lock lock(mutex_);
    while (!done_.wait_for(lock, kProgress, [&] { return verdicts_.size() == jobs_.size(); })) {
      say(fmt::format("{} of {} jobs done", verdicts_.size(), jobs_.size()));
    }
    return verdicts_;
  }

 private:
  void work(ControlClient& client) {
    std::unique_lock lock(mutex_);
    while (next_ < jobs_.size()) {
      Leaving job = jobs_[next_++];
      say(fmt::format("job {} on {}: a checkpoint is taken", job.job, fmt::join(job.nodes, ",")));
      lock.unlock();
      Verdict verdict = move_away(client, std::move(job), wishes_);
      lock.lock();
      const std::string line = fmt::format("job {}: {}", verdict.job.job, verdict.sentence());
      if (as_json_) {
        say(line);
      } else {
        std::puts(storage::printable(line).c_str());
        std::fflush(stdout);
      }
      verdicts_.push_back(std::move(verdict));
      done_.notify_all();
    }
  }

  CoordinatorAccess& access_;
  const std::vector<Leaving> jobs_;
  const DrainWishes wishes_;
  const bool as_json_;
  std::mutex mutex_;
  std::condition_variable done_;
  size_t next_ = 0;
  std::vector<Verdict> verdicts_;
};

int finish(const std::set<std::string>& nodes, const std::vector<Verdict>& verdicts, bool as_json) {
  json out = {{"nodes", nodes}, {"jobs", json::array()}};
  size_t stay = 0;
  bool not_holdable = false;
  for (const Verdict& verdict : verdicts) {
    const bool stays =
        verdict.kind == Verdict::Kind::kKept || verdict.kind == Verdict::Kind::kNotHoldable;
    stay += stays ? 1 : 0;
    not_holdable = not_holdable || verdict.kind == Verdict::Kind::kNotHoldable;
    json job = {{"job", verdict.job.job},
                {"verdict", Verdict::name_of(verdict.kind)},
                {"before", verdict.job.nodes},
                {"nodes", stays ? verdict.job.nodes : verdict.nodes},
                {"sentence", verdict.sentence()}};
    if (verdict.crid != 0) job["crid"] = verdict.crid;
    if (!verdict.reason.empty()) job["reason"] = verdict.reason;
    out["jobs"].push_back(std::move(job));
  }
  out["stay"] = stay;
  if (as_json) {
    print_json(out);
  } else {
    std::puts(fmt::format("{} drained: {} of {} jobs left, {} run there on", fmt::join(nodes, ","),
                          verdicts.size() - stay, verdicts.size(), stay)
                  .c_str());
  }
  if (stay == 0) return 0;
  return exit_code_of(not_holdable ? Code::kCannotHold : Code::kBusy);
}

Result<int> drain(const Invocation& invocation, const Options& options) {
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return needs_coordinator("fermata drain");
  DrainWishes wishes;
  wishes.drained = names_of(options);
  wishes.force = options.force;
  if (!options.deadline.empty()) {
    FERMATA_ASSIGN(const std::chrono::milliseconds wait, parse_duration(options.deadline));
    if (wait.count() == 0) return failure(Code::kUsage, "--deadline: must be more than zero");
    wishes.max_wait_ms = static_cast<uint64_t>(wait.count());
  }
  const std::string reason = options.reason.empty() ? "fermata drain" : options.reason;
  FERMATA_TRY_RESULT(set_drained(*access, wishes.drained, true, reason));
  FERMATA_ASSIGN(std::vector<Leaving> jobs, jobs_on(*access, wishes.drained));
  say(fmt::format("{} takes no new jobs; {} to move", fmt::join(wishes.drained, ","),
                  jobs.size() == 1 ? "1 job" : fmt::format("{} jobs", jobs.size())));
  const std::set<std::string> nodes = wishes.drained;
  std::vector<Verdict> verdicts =
      Exodus(*access, std::move(jobs), std::move(wishes), options.json).run();
  std::sort(verdicts.begin(), verdicts.end(),
            [](const Verdict& a, const Verdict& b) { return a.job.job < b.job.job; });
  return finish(nodes, verdicts, options.json);
}

Result<int> undrain(const Invocation& invocation, const Options& options) {
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return needs_coordinator("fermata undrain");
  const std::set<std::string> nodes = names_of(options);
  FERMATA_TRY_RESULT(set_drained(*access, nodes, false, ""));
  if (options.json) {
    print_json({{"nodes", nodes}});
  } else {
    std::puts(fmt::format("{}: new jobs may run there again", fmt::join(nodes, ",")).c_str());
  }
  return 0;
}

using Command = Result<int> (*)(const Invocation&, const Options&);

CLI::App* add(CLI::App& app, Invocation& invocation, const char* name, const char* what,
              const std::shared_ptr<Options>& options, Command command) {
  CLI::App* sub = app.add_subcommand(name, what);
  sub->add_option("NODE", options->nodes, "The nodes: n1 n2, or n1,n2")->required();
  sub->add_flag("--json", options->json, "For programs");
  on_chosen(*sub, invocation,
            [options, command, &invocation] { return command(invocation, *options); });
  return sub;
}

}  // namespace

void add_drain(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = add(app, invocation, "drain",
                      "Take nodes out of use: nothing new runs there, and every job that can be "
                      "held is restarted elsewhere",
                      options, drain);
  sub->add_option("--reason", options->reason, "Why, for those who wonder [fermata drain]")
      ->type_name("TEXT");
  sub->add_option("--deadline", options->deadline,
                  "A job whose checkpoint is not committed within T runs on")
      ->type_name("T");
  sub->add_flag(
      "--force", options->force,
      "End also what cannot be held; it restarts from its last checkpoint, if it has one");
  sub->footer(
      "Exit status: 0 when every job has left, 5 when one cannot be held, 9 when one runs on for\n"
      "another reason.");
}

void add_undrain(CLI::App& app, Invocation& invocation) {
  add(app, invocation, "undrain", "Take nodes into use again", std::make_shared<Options>(),
      undrain);
}

}  // namespace fermata::cli
