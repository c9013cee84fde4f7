// fermata able: whether a running job could be held, and what it would cost.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/stand_in.h"
#include "common/size_parse.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

struct Options {
  std::string job;
  bool json = false;
};

Result<node_agent::ControlReply> ask(const Invocation& invocation, const Options& options) {
  if (const auto access = CoordinatorAccess::of(invocation)) {
    FERMATA_ASSIGN(const JobStep step, parse_job_step(options.job));
    wire::JobRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    FERMATA_ASSIGN(const wire::AbleReply reply, access->client().able(request));
    const Status status = wire::to_status(reply.outcome());
    // A job of this machine alone has its own keeper.
    if (status.code() != Code::kNotFound || !living_job(invocation, options.job)) {
      return node_agent::ControlReply{status, reply.json()};
    }
  }
  FERMATA_ASSIGN(const node_agent::JobRecord record, living_job(invocation, options.job));
  return ask_or_stand_in(invocation, record, {node_agent::ControlRequest::Kind::kAble});
}

Result<int> able(const Invocation& invocation, const Options& options) {
  FERMATA_ASSIGN(const node_agent::ControlReply reply, ask(invocation, options));
  if (options.json && !reply.body.empty()) {
    std::puts(reply.body.c_str());
    return exit_code_of(reply.status.code());
  }
  if (!reply.status) return fail(reply.status.within("no"));
  const nlohmann::json body = nlohmann::json::parse(reply.body, nullptr, false);
  if (!body.is_object()) return fail({Code::kInternal, "an answer that is no JSON object"});
  std::string line =
      fmt::format("yes: {} processes, {} threads, {} of memory", body.value("processes", 0),
                  body.value("threads", 0), format_size(body.value("memory_bytes", uint64_t{0})));
  if (body.contains("seconds")) {
    line += fmt::format(", about {:.1f} s", body.value("seconds", 0.0));
  } else {
    line += fmt::format("; but the checkpoint folder cannot be used: {}",
                        body.value("folder_problem", ""));
  }
  std::puts(storage::printable(line).c_str());
  return 0;
}

}  // namespace

void add_able(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "able", "Tell whether a running job could be held: stops it for an instant, writes nothing");
  sub->add_option("JOB", options->job, "The job: 12 or 12.0")->required();
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = able(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
