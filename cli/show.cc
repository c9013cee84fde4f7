// fermata show: one job with its sets, or one set.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <clocale>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/listing.h"
#include "cli/phase_chart.h"
#include "common/file_util.h"
#include "common/size_parse.h"
#include "common/time_parse.h"
#include "coord/coordinator.h"
#include "proto/outcome.h"
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
  std::string svg;
  bool json = false;
};

void line(std::string_view name, const std::string& value) {
  std::puts(storage::printable(fmt::format("{:<14}{}", name, value)).c_str());
}

/// A job that runs: of this machine, or of the coordinator.
struct Living {
  std::optional<JobRecord> here;
  std::optional<wire::JobInfo> there;

  explicit operator bool() const { return here || there; }
  std::filesystem::path folder() const {
    return here ? here->folder : std::filesystem::path(there->checkpoint_dir());
  }
  json as_json() const { return here ? to_json(*here) : to_json(*there); }
};

Result<Living> find_living(const Invocation& invocation, JobStep job) {
  Living living;
  if (const auto access = CoordinatorAccess::of(invocation)) {
    FERMATA_ASSIGN(const wire::JobsReply reply, access->client().jobs());
    FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
    for (const wire::JobInfo& info : reply.jobs()) {
      if (JobStep{info.job(), info.step()} == job) living.there = info;
    }
    if (living) return living;
  }
  if (Result<JobRecord> record = invocation.registry().find(job)) living.here = *std::move(record);
  return living;
}

void tell_living(const wire::JobInfo& job) {
  line("state", job.state());
  line("owner", job.user());
  line("ranks", std::to_string(job.ranks()));
  line("nodes", fmt::format("{}", fmt::join(job.nodes(), ",")));
  line("command", coord::display_command({job.command().begin(), job.command().end()}));
  line("checkpoints", job.checkpoint_dir());
  line("interval", job.interval_ms() > 0
                       ? format_duration(std::chrono::milliseconds(job.interval_ms()))
                       : std::string("on request"));
  line("starts", std::to_string(job.start() + 1));
  if (!job.last_error().empty()) line("last failure", job.last_error());
}

int show_job(JobStep job, const Living& running, const std::vector<LedgerSet>& sets, bool as_json) {
  const std::optional<JobRecord>& living = running.here;
  if (as_json) {
    json out = running ? running.as_json() : json({{"job", to_string(job)}, {"state", "ended"}});
    out["sets"] = json::array();
    for (const LedgerSet& set : sets) out["sets"].push_back(to_json(set));
    print_json(out);
    return 0;
  }
  line("job", to_string(job));
  if (running.there) {
    tell_living(*running.there);
  } else {
    line("state", living ? "running" : "ended");
  }
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

size_t terminal_width() {
  winsize size{};
  constexpr size_t kUsual = 100;
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kUsual;
}

bool terminal_takes_utf8() {
  std::setlocale(LC_CTYPE, "");
  return std::string_view(nl_langinfo(CODESET)) == "UTF-8";
}

Result<int> show_set(storage::Ledger& ledger, const std::filesystem::path& dir, Crid crid,
                     const Options& options) {
  const bool as_json = options.json;
  FERMATA_ASSIGN(const LedgerSet set, ledger.find(crid));
  const std::filesystem::path folder = storage::set_folder(dir, set.job, crid);
  const Result<storage::Manifest> manifest = storage::read_manifest(folder);
  if (!options.svg.empty()) {
    if (!manifest) return Failure(manifest.error());
    if (options.svg == "-") {
      std::fputs(phase_svg(*manifest).c_str(), stdout);
    } else {
      FERMATA_TRY_RESULT(write_file_durable(options.svg, phase_svg(*manifest)));
    }
    if (!as_json) return 0;
  }
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
  if (manifest->parent.value != 0) {
    line("builds on", fmt::format("{}, {} sets in all with {}", to_string(manifest->parent),
                                  manifest->chain_sets, format_size(manifest->chain_bytes)));
  }
  line("afterwards", manifest->result);
  if (manifest->request_ms > 0) {
    line("requested", fmt::format("{:.1f} ms before the first phase", manifest->request_ms));
  }
  line("stood still", fmt::format("{:.1f} ms", manifest->stand_still_ms));
  if (manifest->held_ms > 0) {
    line("and later", fmt::format("{:.1f} ms, for want of memory", manifest->held_ms));
  }
  for (const std::string& bar : phase_bars(*manifest, terminal_width(), terminal_takes_utf8())) {
    std::puts(bar.c_str());
  }
  for (const storage::ManifestImage& image : manifest->images) {
    std::string how = image.snapshot.empty() ? std::string() : ", kept by " + image.snapshot;
    if (!image.track.empty()) how += ", writes tracked by " + image.track;
    line(image.file, fmt::format("{} on {}, {} of memory{}, digest {}", format_size(image.bytes),
                                 image.host, format_size(image.memory_bytes), how, image.digest));
  }
  return 0;
}

Result<int> show(const Invocation& invocation, const Options& options) {
  std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  Living living;
  const Result<JobStep> job = parse_job_step(options.what);
  if (!options.crid) {
    if (!job) return Failure(job.error());
    FERMATA_ASSIGN(living, find_living(invocation, *job));
    // Its sets lie where it runs with, unless told otherwise.
    if (living && options.dir.empty() && !living.folder().empty()) dir = living.folder();
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
    if (!options.svg.empty() && !sets.empty()) {
      FERMATA_ASSIGN(const LedgerSet newest, ledger->latest_committed(*job));
      return show_set(*ledger, dir, newest.crid, options);
    }
    if (living || !sets.empty()) return show_job(*job, living, sets, options.json);
    if (options.what.find('.') != std::string::npos) {
      return failure(Code::kNotFound, fmt::format("no job {} runs, and {} has no checkpoint of it",
                                                  options.what, dir.string()));
    }
  }
  FERMATA_ASSIGN(const Crid crid, parse_crid(options.what));
  return show_set(*ledger, dir, crid, options);
}

}  // namespace

void add_show(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("show", "Show a job with its checkpoints, or one checkpoint");
  sub->add_option("JOB|CRID", options->what, "A job; a checkpoint where no job has this number")
      ->required();
  sub->add_flag("--crid", options->crid, "The number is a checkpoint's");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_option("--svg", options->svg,
                  "Draw what each phase of the checkpoint, or of the job's newest, took on each "
                  "node to FILE (-: stdout)")
      ->type_name("FILE");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = show(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
