// fermata vacate and fermata requeue: a checkpoint, and then the end of the job where it is.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/listing.h"
#include "cli/slurm_job.h"
#include "cli/stand_in.h"
#include "cli/steps.h"
#include "common/time_parse.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

struct Options {
  std::string job;
  std::string deadline;
  std::string nodes;
  bool json = false;
};

Result<uint64_t> max_wait_of(const Options& options) {
  if (options.deadline.empty()) return 0;
  FERMATA_ASSIGN(const std::chrono::milliseconds wait, parse_duration(options.deadline));
  if (wait.count() == 0) return failure(Code::kUsage, "--deadline: must be more than zero");
  return static_cast<uint64_t>(wait.count());
}

/// What became of a job, or of each of its steps. The first failure is what the command returns.
class Verdicts {
 public:
  explicit Verdicts(bool as_json) : as_json_(as_json) {}

  void add(const std::string& job, const Status& status, const std::string& sentence, json fields) {
    fields["job"] = job;
    fields["done"] = status.is_ok();
    fields["sentence"] = sentence;
    if (!status) fields["code"] = std::string(code_name(status.code()));
    all_.push_back(std::move(fields));
    if (!status && exit_status_ == 0) exit_status_ = exit_code_of(status.code());
    const std::string line = fmt::format("job {}: {}", job, sentence);
    if (as_json_) return;
    if (status) {
      std::puts(storage::printable(line).c_str());
    } else {
      say(line);
    }
  }
  int finish() const {
    if (as_json_) print_json({{"jobs", all_}});
    return exit_status_;
  }

 private:
  bool as_json_;
  json all_ = json::array();
  int exit_status_ = 0;
};

void tell_vacated(Verdicts& verdicts, const std::string& job, const Status& status, uint64_t crid,
                  const std::string& again) {
  const std::string sentence =
      status ? fmt::format("ended after checkpoint {}; `{}` continues it", crid, again)
             : fmt::format("not ended: {}", status.message());
  verdicts.add(job, status, sentence, {{"crid", crid}});
}

/// A job of this machine alone.
Result<int> vacate_here(const Invocation& invocation, const Options& options) {
  if (!options.deadline.empty()) return needs_coordinator("--deadline");
  FERMATA_ASSIGN(const node_agent::JobRecord record, living_job(invocation, options.job));
  node_agent::ControlRequest request;
  request.end_job = true;
  FERMATA_ASSIGN(const node_agent::ControlReply reply,
                 ask_or_stand_in(invocation, record, request));
  const json body = json::parse(reply.body, nullptr, false);
  const uint64_t crid = body.is_object() ? body.value("crid", uint64_t{0}) : 0;
  const std::string job = to_string(record.job);
  Verdicts verdicts(options.json);
  tell_vacated(verdicts, job, reply.status, crid, "fermata restart " + job);
  return verdicts.finish();
}

/// Slurm's, with all that runs of it.
int move_by_slurm(CoordinatorAccess& access, uint64_t job, const SlurmMove& move,
                  const Options& options) {
  const SlurmMoved moved = move_slurm_job(access.client(), job, move);
  const std::string name = std::to_string(job);
  Verdicts verdicts(options.json);
  if (!move.requeue) {
    tell_vacated(verdicts, name, moved.status, moved.crid,
                 fmt::format("srun --restart={}", moved.crid));
  } else {
    const std::string sentence =
        moved.status
            ? fmt::format("requeued after checkpoint {}: Slurm starts it again", moved.crid)
            : "it runs on: " + moved.status.message();
    verdicts.add(name, moved.status, sentence, {{"crid", moved.crid}, {"ended", moved.ended}});
  }
  return verdicts.finish();
}

/// None: the coordinator has no such job, but this machine may.
Result<std::optional<int>> vacate_there(CoordinatorAccess& access, const Options& options) {
  SlurmMove move;
  FERMATA_ASSIGN(move.max_wait_ms, max_wait_of(options));
  FERMATA_ASSIGN(const NamedSteps named, steps_of(access, options.job));
  if (named.slurm_job()) return move_by_slurm(access, named.steps.front().job, move, options);
  Verdicts verdicts(options.json);
  for (const JobStep step : named.steps) {
    wire::CheckpointRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_end_job(true);
    request.set_max_wait_ms(move.max_wait_ms);
    FERMATA_ASSIGN(const wire::CheckpointReply reply, access.client().checkpoint(request));
    const Status status = wire::to_status(reply.outcome());
    if (status.code() == Code::kNotFound && named.steps.size() == 1) return std::nullopt;
    tell_vacated(verdicts, to_string(step), status, reply.crid(),
                 named.slurm ? fmt::format("srun --restart={}", reply.crid())
                             : "fermata restart " + to_string(step));
  }
  return verdicts.finish();
}

Result<int> vacate(const Invocation& invocation, const Options& options) {
  if (const auto access = CoordinatorAccess::of(invocation)) {
    FERMATA_ASSIGN(const std::optional<int> done, vacate_there(*access, options));
    if (done) return *done;
    if (!living_job(invocation, options.job)) {
      return failure(Code::kNotFound, fmt::format("job {} does not run", options.job));
    }
  }
  return vacate_here(invocation, options);
}

Result<int> requeue(const Invocation& invocation, const Options& options) {
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return needs_coordinator("fermata requeue");
  SlurmMove move;
  move.requeue = true;
  FERMATA_ASSIGN(move.max_wait_ms, max_wait_of(options));
  FERMATA_ASSIGN(const NamedSteps named, steps_of(*access, options.job));
  if (named.slurm_job()) {
    if (!options.nodes.empty()) return failure(Code::kUsage, "--nodes: Slurm places its jobs");
    return move_by_slurm(*access, named.steps.front().job, move, options);
  }
  Verdicts verdicts(options.json);
  for (const JobStep step : named.steps) {
    wire::RequeueRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_max_wait_ms(move.max_wait_ms);
    for (std::string& name : split_names(options.nodes)) request.add_nodes(std::move(name));
    FERMATA_ASSIGN(const wire::RequeueReply reply, access->client().requeue(request));
    const Status status = wire::to_status(reply.outcome());
    const std::vector<std::string> nodes(reply.nodes().begin(), reply.nodes().end());
    json fields = {{"crid", reply.crid()}, {"ended", reply.ended()}, {"nodes", nodes}};
    const std::string sentence = status ? fmt::format("restarted on {} from checkpoint {}",
                                                      fmt::join(nodes, ","), reply.from())
                                        : (reply.ended() ? "" : "it runs on: ") + status.message();
    verdicts.add(to_string(step), status, sentence, std::move(fields));
    for (const std::string& note : reply.notes()) {
      if (!options.json) say(note);
    }
  }
  return verdicts.finish();
}

using Command = Result<int> (*)(const Invocation&, const Options&);

CLI::App* add(CLI::App& app, Invocation& invocation, const char* name, const char* what,
              const std::shared_ptr<Options>& options, Command command) {
  CLI::App* sub = app.add_subcommand(name, what);
  sub->add_option("JOB", options->job, "The job, with all its steps: 12; or one step: 12.0")
      ->required();
  sub->add_option("--deadline", options->deadline,
                  "The job runs on when its checkpoint is not committed within T (with a "
                  "coordinator)")
      ->type_name("T");
  sub->add_flag("--json", options->json, "For programs");
  on_chosen(*sub, invocation,
            [options, command, &invocation] { return command(invocation, *options); });
  return sub;
}

}  // namespace

void add_vacate(CLI::App& app, Invocation& invocation) {
  add(app, invocation, "vacate", "Take a checkpoint of a job and end it once that is committed",
      std::make_shared<Options>(), vacate);
}

void add_requeue(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = add(app, invocation, "requeue",
                      "Take a checkpoint of a job, end it once that is committed, and restart it",
                      options, requeue);
  sub->add_option("-w,--nodes,--nodelist", options->nodes,
                  "Where its pods go: n1,n2 [where they are, else where slots are free]")
      ->type_name("NODES");
}

}  // namespace fermata::cli
