// fermata restart: brings a job back from a committed set and holds it to its end.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>

#include "cli/cluster_job.h"
#include "cli/command.h"
#include "cli/compress_option.h"
#include "cli/coordinator.h"
#include "cli/job_session.h"
#include "cli/track_options.h"
#include "common/log.h"
#include "common/progress.h"
#include "common/size_parse.h"
#include "node-agent/restore.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

struct Options {
  std::string job;
  uint64_t crid = 0;
  std::string dir;
  std::string interval;
  std::string compress;
  std::string user;
  std::string numa = "replan";
  std::optional<uint32_t> keep;
  bool quiet = false;
  bool lazy = false;
  ClusterOptions cluster;
  TrackOptions track;
};

Result<int> restart(const Invocation& invocation, const Options& options) {
  SessionOptions session;
  session.write_bandwidth = invocation.config.write_bandwidth;
  session.compress = options.compress.empty() ? invocation.config.compress : options.compress;
  session.quiet = options.quiet;
  session.track = options.track.track_or(invocation.config);
  session.full_every = options.track.full_every_or(invocation.config);
  session.precopy = options.track.precopy_or(invocation.config);
  session.keep = options.keep.value_or(invocation.config.keep_sets);
  FERMATA_ASSIGN(session.interval, parse_interval(options.interval));
  FERMATA_ASSIGN(const numa::Mode numa_mode, numa::parse_mode(options.numa));
  if (!invocation.coordinator().empty()) {
    FERMATA_TRY_RESULT(options.track.refuse_local_ones());
    if (!options.user.empty()) {
      return failure(Code::kUsage,
                     "--user is for jobs of this machine alone (--coordinator \"\"); "
                     "with a coordinator a job is its folder's owner's");
    }
    return restart_on_cluster(
        invocation, options.cluster,
        {options.job, options.crid, options.dir, session.interval, options.numa, options.quiet,
         options.track.track, options.track.full_every, options.compress, options.keep,
         options.lazy});
  }
  if (const std::string option = options.cluster.needs(); !option.empty()) {
    return needs_coordinator(option);
  }
  FERMATA_TRY_RESULT(require_capabilities());
  std::optional<JobStep> wanted;
  if (!options.job.empty()) {
    FERMATA_ASSIGN(wanted, parse_job_step(options.job));
  }
  std::optional<Crid> crid;
  if (options.crid != 0) crid = Crid{options.crid};

  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const Credentials owner,
                 options.user.empty() ? folder_owner(dir) : job_owner(options.user));
  coord::Coordinator coordinator(dir, owner);
  if (!wanted) {
    FERMATA_ASSIGN(const coord::ChosenSet newest, coordinator.choose(std::nullopt, crid));
    wanted = newest.manifest.job;
  }

  node_agent::JobRegistry registry = invocation.registry();
  const auto busy = [&] {
    return failure(Code::kBusy, fmt::format("job {} still runs; end it first, for example with "
                                            "`fermata checkpoint {} --kill`",
                                            to_string(*wanted), to_string(*wanted)));
  };
  if (registry.find(*wanted)) return busy();
  FERMATA_ASSIGN(node_agent::JobClaim claim, registry.claim(*wanted));
  if (registry.find(*wanted)) return busy();
  if (const Status settled = coordinator.settle_attempts(*wanted); !settled) {
    // A folder that is full or read-only: what is committed can be read all the same.
    log_warning(fmt::format("{}: what earlier attempts left stays: {}", dir.string(),
                            storage::printable(settled.message())));
  }
  FERMATA_ASSIGN(const coord::ChosenSet set, coordinator.choose(wanted, crid));
  if (options.user.empty()) {
    const Status owned = coord::check_owner(set, owner);
    if (owned.code() == Code::kPermission) {
      return failure(Code::kPermission, owned.message() + "; root may restart it with --user");
    }
    if (!owned) return Failure(owned);
  }
  if (set.manifest.images.size() != 1) {
    return failure(Code::kUnsupported,
                   fmt::format("set {} has {} pods; this version restarts sets "
                               "of one",
                               to_string(set.manifest.crid), set.manifest.images.size()));
  }
  FERMATA_ASSIGN(node_agent::ControlServer control,
                 node_agent::ControlServer::listen(claim.control_socket(), owner.uid));
  FERMATA_TRY_RESULT(take_over_signals());

  node_agent::JobRecord record;
  record.job = *wanted;
  record.agent = getpid();
  record.folder = coordinator.dir();
  record.owner_uid = owner.uid;
  record.owner = owner.name;
  record.ranks = set.manifest.ranks;
  record.command = set.manifest.command;
  record.started = std::time(nullptr);
  record.interval_s = std::chrono::duration<double>(session.interval).count();
  const auto publish = [&](const node_agent::StandingPod& standing) {
    record.init = standing.pod.init_pid();
    record.init_start = node_agent::process_start_time(record.init);
    record.group = standing.pod.group();
    return claim.publish(record);
  };

  const storage::ManifestImage& image = set.manifest.images.front();
  node_agent::RestoreOrder order;
  order.job = *wanted;
  order.crid = set.manifest.crid;
  order.image = set.folder / image.file;
  order.digest = image.digest;
  order.owner = owner;
  order.numa = numa_mode;
  order.lazy = options.lazy;
  order.placement_file = claim.folder() / "placement";
  std::optional<Progress> progress;
  if (!session.quiet && !options.lazy) {
    progress.emplace("reading " + storage::printable(image.file), image.memory_bytes,
                     STDERR_FILENO);
    order.on_read = [&progress](uint64_t bytes) { progress->advance(bytes); };
  }
  const auto start = std::chrono::steady_clock::now();
  FERMATA_ASSIGN(node_agent::RestoredPod restored, node_agent::restore(order, publish));
  progress.reset();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;

  for (const std::string& note : restored.notes) log_warning(storage::printable(note));
  if (!session.quiet) {
    say(fmt::format("job {} restarted from checkpoint {} of {}: {} processes, {}, {:.2f} s",
                    to_string(*wanted), to_string(order.crid), set.manifest.time,
                    restored.processes, format_size(restored.memory_bytes), took.count()));
  }
  session.lazy = restored.lazy.get();
  return hold_job(restored.pod, record, owner, control, coordinator, session);
}

}  // namespace

void add_restart(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("restart", "Bring a job back from its last committed checkpoint");
  sub->add_option("JOB", options->job, "The job; without it the newest in the folder");
  sub->add_option("--crid", options->crid, "This checkpoint instead of the newest")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_option("--checkpoint-interval", options->interval, "Take a checkpoint every T")
      ->type_name("T");
  sub->add_option("--keep", options->keep,
                  "So many of its newest checkpoints stay; 0: all [the config file, 2; with a "
                  "coordinator: as before]")
      ->type_name("N");
  sub->add_option("--user", options->user, "Run as this user (root only) [the checkpoints' owner]")
      ->type_name("NAME");
  sub->add_option("--numa", options->numa,
                  "CPUs and memory nodes: replan (what was near stays near), keep (the numbers as "
                  "they were), ignore")
      ->type_name("HOW")
      ->capture_default_str();
  sub->add_option("-N,--nodes,-w,--nodelist", options->cluster.nodes,
                  "Where its pods go, in their order: n1,n2,n2 [where they were, else where slots "
                  "are free] (with a coordinator)")
      ->type_name("NODES");
  sub->add_option("-o,--output", options->cluster.output,
                  "The job's stdout goes to FILE [as before] (with a coordinator)")
      ->type_name("FILE");
  sub->add_option("-e,--error", options->cluster.error, "Its stderr [as --output]")
      ->type_name("FILE");
  add_track_options(*sub, options->track);
  add_compress_option(*sub, options->compress, "its checkpoints");
  sub->add_flag("--detach", options->cluster.detach,
                "Return once the job runs (with a coordinator)");
  sub->add_flag("--lazy", options->lazy,
                "Let it run at once: its memory comes as it is needed, the rest meanwhile");
  sub->add_flag("-q,--quiet", options->quiet, "Say nothing but failures");
  sub->footer(
      "The job keeps its number. Its streams are those of this command, its exit status too, as\n"
      "`fermata run` has it.");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      const Result<int> status = restart(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
