// fermata jobs and fermata nodes: what runs, and where there is room.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/listing.h"
#include "proto/outcome.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

Result<int> local_jobs(const Invocation& invocation, bool as_json) {
  FERMATA_ASSIGN(const std::vector<node_agent::JobRecord> jobs, invocation.registry().living());
  if (as_json) {
    json out = {{"jobs", json::array()}};
    for (const node_agent::JobRecord& job : jobs) out["jobs"].push_back(to_json(job));
    print_json(out);
  } else if (jobs.empty()) {
    std::puts("No job runs.");
  } else {
    print_table(jobs);
  }
  return 0;
}

Result<int> jobs(const Invocation& invocation, bool as_json) {
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return local_jobs(invocation, as_json);
  FERMATA_ASSIGN(const wire::JobsReply reply, access->client().jobs());
  FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
  const std::vector<wire::JobInfo> all(reply.jobs().begin(), reply.jobs().end());
  if (as_json) {
    json out = {{"jobs", json::array()}};
    for (const wire::JobInfo& job : all) out["jobs"].push_back(to_json(job));
    print_json(out);
  } else if (all.empty()) {
    std::puts("No job runs.");
  } else {
    print_table(all);
  }
  return 0;
}

Result<int> nodes(const Invocation& invocation, bool as_json) {
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return needs_coordinator("fermata nodes");
  FERMATA_ASSIGN(const wire::NodesReply reply, access->client().nodes());
  FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
  const std::vector<wire::NodeInfo> all(reply.nodes().begin(), reply.nodes().end());
  if (as_json) {
    json out = {{"nodes", json::array()}};
    for (const wire::NodeInfo& node : all) out["nodes"].push_back(to_json(node));
    print_json(out);
  } else if (all.empty()) {
    std::puts("No agent has come yet.");
  } else {
    print_table(all);
  }
  return 0;
}

using Listing = Result<int> (*)(const Invocation&, bool);

void add_listing(CLI::App& app, Invocation& invocation, const char* name, const char* what,
                 Listing list) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* sub = app.add_subcommand(name, what);
  sub->add_flag("--json", *as_json, "For programs");
  on_chosen(*sub, invocation, [as_json, list, &invocation] { return list(invocation, *as_json); });
}

}  // namespace

void add_jobs(CLI::App& app, Invocation& invocation) {
  add_listing(app, invocation, "jobs", "List the jobs that run, and on which nodes", jobs);
}

void add_nodes(CLI::App& app, Invocation& invocation) {
  add_listing(app, invocation, "nodes", "List the nodes, with what is free on them", nodes);
}

}  // namespace fermata::cli
