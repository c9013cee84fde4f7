// fermata run: starts a job in a pod and holds it to its end.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <ctime>

#include "cli/cluster_job.h"
#include "cli/command.h"
#include "cli/compress_option.h"
#include "cli/coordinator.h"
#include "cli/job_session.h"
#include "cli/track_options.h"
#include "common/time_parse.h"

namespace fermata::cli {
namespace {

struct Options {
  uint32_t ranks = 1;
  std::string interval;
  std::string compress;
  std::string dir;
  std::string user;
  std::optional<uint32_t> keep;
  bool quiet = false;
  ClusterOptions cluster;
  TrackOptions track;
};

constexpr int kNotFoundExit = 127;  // as shells have it

/// A number that is new both on this machine and in the checkpoint folder.
Result<JobStep> number_job(node_agent::JobRegistry& registry, const coord::Coordinator& coordinator,
                           bool folder_needed) {
  FERMATA_ASSIGN(JobStep job, registry.allot(0));
  Result<uint64_t> wanted = coordinator.next_job(job.job);
  if (!wanted) {
    // Sets may never be asked for: then the folder does not matter.
    if (folder_needed) return Failure(std::move(wanted).error());
    return job;
  }
  while (*wanted != job.job) {
    FERMATA_ASSIGN(job, registry.allot(*wanted));
    if (job.job == *wanted) break;  // the folder's and this machine's
    FERMATA_ASSIGN(wanted, coordinator.next_job(job.job));
  }
  return job;
}

Result<int> run(const Invocation& invocation, const Options& options,
                const std::vector<std::string>& command) {
  SessionOptions session;
  session.write_bandwidth = invocation.config.write_bandwidth;
  session.compress = options.compress.empty() ? invocation.config.compress : options.compress;
  session.quiet = options.quiet;
  session.track = options.track.track_or(invocation.config);
  session.full_every = options.track.full_every_or(invocation.config);
  session.precopy = options.track.precopy_or(invocation.config);
  session.keep = options.keep.value_or(invocation.config.keep_sets);
  FERMATA_ASSIGN(session.interval, parse_interval(options.interval));
  if (!invocation.coordinator().empty()) {
    FERMATA_TRY_RESULT(options.track.refuse_local_ones());
    if (!options.user.empty()) {
      return failure(Code::kUsage,
                     "--user is for jobs of this machine alone (--coordinator \"\"); "
                     "with a coordinator a job is whose command it is");
    }
    return run_on_cluster(invocation, options.cluster,
                          {options.ranks, command, options.dir, session.interval, options.quiet,
                           session.track, session.full_every, options.compress, options.keep});
  }
  if (const std::string option = options.cluster.needs(); !option.empty()) {
    return needs_coordinator(option);
  }
  FERMATA_TRY_RESULT(require_capabilities());
  FERMATA_ASSIGN(const Credentials owner, job_owner(options.user));
  coord::Coordinator coordinator(invocation.checkpoint_dir(options.dir), owner);
  const bool folder_needed = session.interval.count() > 0;
  if (folder_needed) FERMATA_TRY_RESULT(coordinator.make_folder());

  node_agent::JobRegistry registry = invocation.registry();
  FERMATA_ASSIGN(const JobStep job, number_job(registry, coordinator, folder_needed));
  FERMATA_ASSIGN(node_agent::JobClaim claim, registry.claim(job));
  FERMATA_ASSIGN(node_agent::ControlServer control,
                 node_agent::ControlServer::listen(claim.control_socket(), owner.uid));

  pod::PodSpec spec;
  spec.job = job;
  spec.user = owner;
  spec.ranks = options.ranks;
  spec.command = command;
  spec.environment = environment_for(owner);
  std::error_code error;
  spec.working_directory = std::filesystem::current_path(error).string();
  if (error) return errno_failure(error.value(), "working directory");

  FERMATA_TRY_RESULT(take_over_signals());
  Result<pod::Pod> pod = pod::Pod::launch(spec);
  if (!pod) {
    const int exit_status = fail(pod.error());
    return pod.error().code() == Code::kNotFound ? kNotFoundExit : exit_status;
  }

  node_agent::JobRecord record;
  record.job = job;
  record.init = pod->init_pid();
  record.init_start = node_agent::process_start_time(record.init);
  record.agent = getpid();
  record.group = pod->group();
  record.folder = coordinator.dir();
  record.owner_uid = owner.uid;
  record.owner = owner.name;
  record.ranks = options.ranks;
  record.command = command;
  record.started = std::time(nullptr);
  record.interval_s = std::chrono::duration<double>(session.interval).count();
  if (const Status published = claim.publish(record); !published) {
    // A job nobody can find is no use to anybody.
    [[maybe_unused]] const Status destroyed = pod->destroy();
    return Failure(published);
  }
  if (!session.quiet) {
    const std::string when = folder_needed
                                 ? fmt::format("every {}", format_duration(session.interval))
                                 : std::string("on request");
    say(fmt::format("job {} started ({} {}), checkpoints in {} {}", to_string(job), options.ranks,
                    options.ranks == 1 ? "rank" : "ranks", coordinator.dir().string(), when));
  }
  return hold_job(*pod, record, owner, control, coordinator, session);
}

}  // namespace

void add_run(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("run",
                         "Run a program, an MPI job or any other, so that it can be held:\n"
                         "fermata run [OPTIONS] -- COMMAND [ARGUMENTS...]");
  sub->add_option("-n,--ranks", options->ranks, "Number of MPI ranks")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  sub->add_option("--checkpoint-interval", options->interval,
                  "Take a checkpoint every T: 30m, 2h, 5s, or as Slurm writes times (a bare number "
                  "is minutes)")
      ->type_name("T");
  sub->add_option("--checkpoint-dir", options->dir,
                  "Where checkpoints lie [$FERMATA_CHECKPOINT_DIR, the config file, "
                  "./fermata-checkpoints]")
      ->type_name("DIR");
  sub->add_option("--keep", options->keep,
                  "So many of its newest checkpoints stay, older ones are removed; 0: all [the "
                  "config file, 2]")
      ->type_name("N");
  sub->add_option("--user", options->user, "Run as this user (root only)")->type_name("NAME");
  sub->add_option("-N,--nodes,-w,--nodelist", options->cluster.nodes,
                  "On so many nodes, or on these: 3, or n1,n2,n3 (with a coordinator)")
      ->type_name("NODES");
  sub->add_option("-o,--output", options->cluster.output,
                  "The job's stdout goes to FILE; %j stands for the job, %N for the node "
                  "[fermata-%j.out] (with a coordinator)")
      ->type_name("FILE");
  sub->add_option("-e,--error", options->cluster.error, "Its stderr [as --output]")
      ->type_name("FILE");
  sub->add_option("--external-tcp", options->cluster.external_tcp,
                  "Connections that leave the job: refuse checkpoints while there are any, or let "
                  "a restart reset them")
      ->check(CLI::IsMember({"refuse", "reset"}))
      ->type_name("HOW");
  add_track_options(*sub, options->track);
  add_compress_option(*sub, options->compress, "its checkpoints");
  sub->add_flag("--detach", options->cluster.detach,
                "Return once the job runs (with a coordinator)");
  sub->add_flag("-q,--quiet", options->quiet, "Say nothing but failures");
  sub->prefix_command();
  sub->footer(
      "The exit status is the job's: the highest of its ranks, 128+N when signal N ended it, 137 "
      "when\n`fermata checkpoint --kill` did, 127 when the program cannot be found.");
  sub->callback([sub, options, &invocation] {
    invocation.action = [sub, options, &invocation] {
      std::vector<std::string> command = sub->remaining();
      const bool unknown_option = !command.empty() && command.front().starts_with("-");
      if (!command.empty() && !invocation.after_dashes.empty()) command.emplace_back("--");
      command.insert(command.end(), invocation.after_dashes.begin(), invocation.after_dashes.end());
      if (command.empty()) {
        return fail({Code::kUsage, "run: no command; `fermata run -n 4 -- program arguments`"});
      }
      if (unknown_option) {
        return fail(
            {Code::kUsage, fmt::format("run: no option {}; `fermata run --help` lists them, "
                                       "a program comes after \"--\"",
                                       command.front())});
      }
      const Result<int> status = run(invocation, *options, command);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
