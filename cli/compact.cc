// fermata compact: makes a full checkpoint of one that builds on others.
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/compress_option.h"
#include "common/log.h"
#include "common/progress.h"
#include "common/size_parse.h"
#include "coord/coordinator.h"
#include "storage/flatten.h"
#include "storage/ledger.h"

namespace fermata::cli {
namespace {

struct Options {
  std::string what;
  bool crid = false;
  std::string dir;
  bool json = false;
  std::string compress;
};

constexpr unsigned kThreads = 2;

/// Behind everything else: what only makes a restart quicker shall slow nobody down.
void give_way() {
  constexpr int kWhoProcess = 1;  // ioprio_set(2)
  constexpr int kIdle = 3 << 13;
  constexpr int kLowest = 19;
  syscall(SYS_ioprio_set, kWhoProcess, 0, kIdle);
  if (nice(kLowest) == -1) log_debug("the priority stays as it is");
}

/// The set named: of a job the newest.
Result<coord::ChosenSet> choose(const coord::Coordinator& coordinator, const Options& options) {
  if (!options.crid) {
    FERMATA_ASSIGN(const JobStep job, parse_job_step(options.what));
    Result<coord::ChosenSet> newest = coordinator.choose(job, std::nullopt);
    const bool no_such_job = !newest && newest.error().code() == Code::kNotFound;
    if (!no_such_job || options.what.find('.') != std::string::npos) return newest;
  }
  FERMATA_ASSIGN(const Crid crid, parse_crid(options.what));
  return coordinator.choose(std::nullopt, crid);
}

Result<int> compact(const Invocation& invocation, const Options& options) {
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  const coord::Coordinator coordinator(dir, owner);
  FERMATA_ASSIGN(const coord::ChosenSet set, choose(coordinator, options));
  FERMATA_ASSIGN(
      const Compression compress,
      parse_compression(options.compress.empty() ? invocation.config.compress : options.compress));
  give_way();
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  FERMATA_ASSIGN(const storage::Manifest now, storage::flatten_set(set.folder, kThreads, compress));
  const bool changed = set.manifest.parent.value != 0;
  if (changed) {
    // The manifest decides: a ledger that does not know it yet tells an older size.
    const Status recorded = [&]() -> Status {
      FERMATA_ASSIGN_STATUS(storage::Ledger ledger, storage::Ledger::open(dir));
      return ledger.commit(now);
    }();
    if (!recorded) log_warning(recorded.message());
  }
  if (options.json) {
    std::puts(nlohmann::json({{"crid", now.crid.value},
                              {"job", to_string(now.job)},
                              {"changed", changed},
                              {"bytes", now.bytes()}})
                  .dump(2)
                  .c_str());
    return 0;
  }
  std::puts(fmt::format("checkpoint {} of job {} {}: {}", to_string(now.crid), to_string(now.job),
                        changed ? "is full now" : "was full already", format_size(now.bytes()))
                .c_str());
  return 0;
}

}  // namespace

void add_compact(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "compact", "Make a full checkpoint of one that builds on others, at low priority");
  sub->add_option("JOB|CRID", options->what,
                  "A job, for its newest checkpoint; a checkpoint where no job has this number")
      ->required();
  sub->add_flag("--crid", options->crid, "The number is a checkpoint's");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  add_compress_option(*sub, options->compress, "what is made");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = compact(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
