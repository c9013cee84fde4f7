// fermata ls: the jobs of this machine and the sets of a checkpoint folder.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/listing.h"
#include "storage/ledger.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using node_agent::JobRecord;
using storage::LedgerSet;

struct Options {
  std::string dir;
  bool json = false;
  bool rebuild = false;
};

Result<std::vector<LedgerSet>> sets_in(const std::filesystem::path& dir) {
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  Result<storage::Ledger> ledger = storage::Ledger::open(dir);
  if (!ledger) {
    if (ledger.error().code() == Code::kNotFound) return std::vector<LedgerSet>();
    return Failure(std::move(ledger).error());
  }
  return ledger->sets();
}

Result<int> rebuild(const std::filesystem::path& dir, bool as_json) {
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  FERMATA_ASSIGN(const storage::RebuiltLedger rebuilt, storage::Ledger::rebuild(dir));
  if (as_json) {
    print_json({{"sets", rebuilt.sets}, {"problems", rebuilt.problems}});
    return 0;
  }
  for (const std::string& problem : rebuilt.problems) say(problem);
  std::puts(fmt::format("{}: the ledger knows {} committed {} again", dir.string(), rebuilt.sets,
                        rebuilt.sets == 1 ? "set" : "sets")
                .c_str());
  return 0;
}

Result<int> ls(const Invocation& invocation, const Options& options) {
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  if (options.rebuild) return rebuild(dir, options.json);
  FERMATA_ASSIGN(const std::vector<JobRecord> jobs, invocation.registry().living());
  FERMATA_ASSIGN(const std::vector<LedgerSet> sets, sets_in(dir));
  if (options.json) {
    json out = {{"folder", dir.string()}, {"jobs", json::array()}, {"sets", json::array()}};
    for (const JobRecord& job : jobs) out["jobs"].push_back(to_json(job));
    for (const LedgerSet& set : sets) out["sets"].push_back(to_json(set));
    print_json(out);
    return 0;
  }
  if (jobs.empty()) {
    std::puts("No job runs.");
  } else {
    print_table(jobs);
  }
  std::puts("");
  if (sets.empty()) {
    std::puts(fmt::format("No checkpoints in {}.", dir.string()).c_str());
  } else {
    std::puts(fmt::format("Checkpoints in {}:", dir.string()).c_str());
    print_table(sets);
  }
  return 0;
}

}  // namespace

void add_ls(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("ls", "List running jobs and the checkpoints in a folder");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_flag("--rebuild", options->rebuild,
                "Make the folder's ledger anew from the manifests in it");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = ls(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
