// fermata checkpoint: takes a set of a running job now.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/checkpoint_witness.h"
#include "cli/command.h"
#include "cli/compress_option.h"
#include "cli/coordinator.h"
#include "cli/stand_in.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

struct Options {
  std::string job;
  bool end_job = false;
  bool json = false;
  std::optional<uint32_t> keep;
  std::string compress;
};

Result<node_agent::ControlReply> ask(const Invocation& invocation, const Options& options) {
  if (const auto access = CoordinatorAccess::of(invocation)) {
    FERMATA_ASSIGN(const JobStep step, parse_job_step(options.job));
    wire::CheckpointRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_end_job(options.end_job);
    if (options.keep) request.set_keep(*options.keep);
    request.set_compress(options.compress);
    CheckpointWitness witness(access->client(), step, options.end_job);
    const Result<wire::CheckpointReply> answer = access->client().checkpoint(request);
    if (!answer && answer.error().code() == Code::kGone) return witness.find_out(answer.error());
    FERMATA_ASSIGN(const wire::CheckpointReply reply, answer);
    const Status status = wire::to_status(reply.outcome());
    // A job of this machine alone has its own keeper.
    if (status.code() != Code::kNotFound || !living_job(invocation, options.job)) {
      return node_agent::ControlReply{status, reply.json()};
    }
  }
  FERMATA_ASSIGN(const node_agent::JobRecord record, living_job(invocation, options.job));
  return ask_or_stand_in(invocation, record,
                         {node_agent::ControlRequest::Kind::kCheckpoint, options.end_job,
                          options.compress, options.keep});
}

Result<int> checkpoint(const Invocation& invocation, const Options& options) {
  FERMATA_ASSIGN(const node_agent::ControlReply reply, ask(invocation, options));
  if (options.json && !reply.body.empty()) {
    std::puts(reply.body.c_str());
    return exit_code_of(reply.status.code());
  }
  if (!reply.status) {
    const Code code = reply.status.code();
    const bool ended = code == Code::kGone || code == Code::kNotFound;
    return fail(reply.status.within(ended ? "no checkpoint" : "no checkpoint, the job runs on"));
  }
  const nlohmann::json body = nlohmann::json::parse(reply.body, nullptr, false);
  if (body.is_object()) {
    std::puts(storage::printable(body.value("sentence", "committed")).c_str());
  }
  return 0;
}

}  // namespace

void add_checkpoint(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("checkpoint", "Take a checkpoint of a running job now");
  sub->add_option("JOB", options->job, "The job: 12 or 12.0")->required();
  sub->add_flag("--kill", options->end_job,
                "End the job once the checkpoint is committed; it does "
                "not run on in between");
  sub->add_option("--keep", options->keep,
                  "So many of the job's newest checkpoints stay then; 0: all [as the job has it]")
      ->type_name("N");
  add_compress_option(*sub, options->compress, "this checkpoint");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = checkpoint(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
