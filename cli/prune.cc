// fermata prune: removes older checkpoints of a folder.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/command.h"
#include "cli/listing.h"
#include "common/size_parse.h"
#include "coord/coordinator.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

struct Options {
  std::string job;
  std::string dir;
  std::optional<uint32_t> keep;
  bool dry_run = false;
  bool json = false;
};

/// The jobs that have sets in the folder, or the one that is asked for.
Result<std::set<JobStep>> jobs_of(const std::filesystem::path& dir, const Credentials& owner,
                                  const std::string& job) {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  FERMATA_ASSIGN(storage::Ledger ledger, storage::Ledger::open(dir));
  std::optional<JobStep> wanted;
  if (!job.empty()) {
    FERMATA_ASSIGN(wanted, parse_job_step(job));
  }
  FERMATA_ASSIGN(const std::vector<storage::LedgerSet> sets, ledger.sets(wanted));
  std::set<JobStep> jobs;
  for (const storage::LedgerSet& set : sets) jobs.insert(set.job);
  if (wanted && jobs.empty()) {
    return failure(Code::kNotFound,
                   fmt::format("{} has no checkpoint of job {}", dir.string(), to_string(*wanted)));
  }
  return jobs;
}

void tell(const storage::Pruned& pruned, const Options& options) {
  for (const storage::LedgerSet& set : pruned.removed) {
    std::puts(fmt::format("checkpoint {} of job {}, {}, {}: {}", to_string(set.crid),
                          to_string(set.job), set.time, format_size(set.bytes),
                          options.dry_run ? "would be removed" : "removed")
                  .c_str());
  }
}

Result<int> prune(const Invocation& invocation, const Options& options) {
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  FERMATA_ASSIGN(const std::set<JobStep> jobs, jobs_of(dir, owner, options.job));
  const uint32_t keep = options.keep.value_or(invocation.config.keep_sets);
  const coord::Coordinator coordinator(dir, owner);
  json out = {{"folder", dir.string()},
              {"keep", keep},
              {"dry_run", options.dry_run},
              {"removed", json::array()},
              {"kept", json::array()}};
  uint64_t bytes = 0;
  size_t count = 0;
  for (const JobStep job : jobs) {
    FERMATA_ASSIGN(const storage::Pruned pruned, coordinator.prune(job, keep, options.dry_run));
    if (!options.json) tell(pruned, options);
    for (const storage::LedgerSet& set : pruned.removed) out["removed"].push_back(to_json(set));
    for (const storage::LedgerSet& set : pruned.kept) out["kept"].push_back(to_json(set));
    bytes += pruned.bytes;
    count += pruned.removed.size();
  }
  if (options.json) {
    out["bytes"] = bytes;
    print_json(out);
  } else {
    std::puts(fmt::format("{}: {} {}, {}", dir.string(), count,
                          options.dry_run ? "would be removed" : "removed", format_size(bytes))
                  .c_str());
  }
  return 0;
}

}  // namespace

void add_prune(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("prune", "Remove older checkpoints of a folder");
  sub->add_option("JOB", options->job, "Of this job [of every job in the folder]");
  sub->add_option("--keep", options->keep,
                  "So many of each job's newest stay, and all they are built on; 0: all [the "
                  "config file, 2]")
      ->type_name("N");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_flag("--dry-run", options->dry_run, "Only tell what would be removed");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = prune(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
