// fermata show: one job with its sets, or one set.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/listing.h"
#include "common/size_parse.h"
#include "coord/coordinator.h"
#include "storage/ledger.h"
#include "storage/manifest.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using node_agent::JobRecord;
using storage::LedgerSet;

struct Options {
  std::string what;
  bool crid = false;
  std::string dir;
  bool json = false;
};

void line(std::string_view name, const std::string& value) {
  std::puts(storage::printable(fmt::format("{:<14}{}", name, value)).c_str());
}

int show_job(JobStep job, const std::optional<JobRecord>& living,
             const std::vector<LedgerSet>& sets, bool as_json) {
  if (as_json) {
    json out = living ? to_json(*living) : json({{"job", to_string(job)}, {"state", "ended"}});
    out["sets"] = json::array();
    for (const LedgerSet& set : sets) out["sets"].push_back(to_json(set));
    print_json(out);
    return 0;
  }
  line("job", to_string(job));
  line("state", living ? "running" : "ended");
  if (living) {
    line("owner", living->owner);
    line("ranks", std::to_string(living->ranks));
    line("command", coord::display_command(living->command));
    line("checkpoints", living->folder.string());
    line("interval", living->interval_s > 0 ? fmt::format("{} s", living->interval_s)
                                            : std::string("on request"));
    line("PID 1", fmt::format("{} on this machine", living->init));
    line("group", living->group.string());
  }
  if (!sets.empty()) {
    std::puts("");
    print_table(sets);
  }
  return 0;
}

Result<int> show_set(storage::Ledger& ledger, const std::filesystem::path& dir, Crid crid,
                     bool as_json) {
  FERMATA_ASSIGN(const LedgerSet set, ledger.find(crid));
  const std::filesystem::path folder = storage::set_folder(dir, set.job, crid);
  const Result<storage::Manifest> manifest = storage::read_manifest(folder);
  if (as_json) {
    json out = to_json(set);
    out["folder"] = folder.string();
    if (manifest) {
      const json whole = json::parse(storage::manifest_json(*manifest), nullptr, false);
      if (!whole.is_discarded()) out["manifest"] = whole;
    }
    const bool failed = !manifest && set.state == storage::SetState::kCommitted;
    if (failed) {
      out["error"] = manifest.error().message();
      out["code"] = std::string(code_name(manifest.error().code()));
      say(manifest.error().message());
    }
    print_json(out);
    return failed ? exit_code_of(manifest.error().code()) : 0;
  }
  line("checkpoint", to_string(crid));
  line("job", to_string(set.job));
  line("state", std::string(storage::state_name(set.state)));
  line("time", set.time);
  line("user", set.user);
  line("command", set.command);
  line("folder", folder.string());
  if (!set.reason.empty()) line("reason", set.reason);
  if (!manifest) {
    if (set.state == storage::SetState::kCommitted) return Failure(manifest.error());
    return 0;
  }
  line("ranks", std::to_string(manifest->ranks));
  line("afterwards", manifest->result);
  line("stood still", fmt::format("{:.1f} ms", manifest->stand_still_ms));
  for (const auto& [phase, milliseconds] : manifest->phases_ms) {
    line("  " + phase, fmt::format("{:.1f} ms", milliseconds));
  }
  for (const storage::ManifestImage& image : manifest->images) {
    line(image.file, fmt::format("{} on {}, {} of memory, digest {}", format_size(image.bytes),
                                 image.host, format_size(image.memory_bytes), image.digest));
  }
  return 0;
}

Result<int> show(const Invocation& invocation, const Options& options) {
  std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  std::optional<JobRecord> living;
  const Result<JobStep> job = parse_job_step(options.what);
  if (!options.crid) {
    if (!job) return Failure(job.error());
    if (Result<JobRecord> record = invocation.registry().find(*job)) {
      living = *std::move(record);
      // Its sets lie where it runs with, unless told otherwise.
      if (options.dir.empty()) dir = living->folder;
    }
  }
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  Result<storage::Ledger> ledger = storage::Ledger::open(dir);
  if (!ledger) {
    if (living && ledger.error().code() == Code::kNotFound) {
      return show_job(*job, living, {}, options.json);
    }
    return Failure(ledger.error().within(options.what));
  }
  if (!options.crid) {
    FERMATA_ASSIGN(const std::vector<LedgerSet> sets, ledger->sets(*job));
    if (living || !sets.empty()) return show_job(*job, living, sets, options.json);
    if (options.what.find('.') != std::string::npos) {
      return failure(Code::kNotFound, fmt::format("no job {} runs, and {} has no checkpoint of it",
                                                  options.what, dir.string()));
    }
  }
  FERMATA_ASSIGN(const Crid crid, parse_crid(options.what));
  return show_set(*ledger, dir, crid, options.json);
}

}  // namespace

void add_show(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("show", "Show a job with its checkpoints, or one checkpoint");
  sub->add_option("JOB|CRID", options->what, "A job; a checkpoint where no job has this number")
      ->required();
  sub->add_flag("--crid", options->crid, "The number is a checkpoint's");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = show(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
