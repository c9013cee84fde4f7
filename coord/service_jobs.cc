// How jobs begin: numbered, placed, launched or restarted. On a worker's thread.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "common/compression.h"
#include "common/log.h"
#include "coord/launch.h"
#include "coord/placement.h"
#include "coord/service.h"
#include "coord/streams.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

constexpr const char* kOutput = "fermata-%j.out";
/// Ten years: beyond it, milliseconds in nanoseconds come near their end.
constexpr uint64_t kLongestInterval = 10ULL * 365 * 24 * 3600 * 1000;

Status absolute(std::string_view path, std::string_view what) {
  if (path.starts_with('/') && path.find('\0') == std::string_view::npos) return Status::ok();
  return {Code::kUsage, fmt::format("{}: an absolute path is expected", what)};
}

Status check_tracking(const std::string& track, uint32_t full_every) {
  constexpr std::array<std::string_view, 6> kWays{"", "auto", "uffd", "soft-dirty", "hash", "none"};
  if (std::find(kWays.begin(), kWays.end(), track) == kWays.end()) {
    return {Code::kUsage, "writes are tracked by auto, uffd, soft-dirty, hash or none"};
  }
  if (full_every > kFullEveryMost) {
    return {Code::kUsage, fmt::format("at least every {}th set has to be full", kFullEveryMost)};
  }
  return Status::ok();
}

Status check(const wire::RunRequest& request) {
  if (request.ranks() == 0 || request.ranks() > kMostRanks) {
    return {Code::kUsage, fmt::format("{} ranks: 1 to {} can be run", request.ranks(), kMostRanks)};
  }
  if (request.command().empty()) return {Code::kUsage, "no command"};
  if (request.interval_ms() > kLongestInterval) return {Code::kUsage, "the interval is too long"};
  FERMATA_TRY(check_tracking(request.track(), request.full_every()));
  FERMATA_TRY(check_compression(request.compress()).within("--compress"));
  FERMATA_TRY(absolute(request.working_directory(), "working directory"));
  return absolute(request.checkpoint_dir(), "checkpoint folder");
}

/// Whose checkpoint folder it is: an admin acts as its owner, others as themselves.
Result<Credentials> folder_owner(const Caller& caller, const std::filesystem::path& dir) {
  struct stat status {};
  if (caller.admin &&
      (lstat((dir / "ledger.sqlite").c_str(), &status) == 0 || lstat(dir.c_str(), &status) == 0)) {
    return credentials_of(std::to_string(status.st_uid));
  }
  return credentials_of(std::to_string(caller.uid));
}

/// The tasks that host the ranks of a Slurm step are Slurm's to start.
Status not_of_slurm(const std::optional<stored::Job>& known) {
  if (!known || !known->slurm()) return Status::ok();
  const std::string set = known->last_crid() == 0 ? "latest" : std::to_string(known->last_crid());
  return {Code::kUsage, fmt::format("job {} is a step of Slurm's: `srun --restart={}` continues it",
                                    to_string(step_of(*known)), set)};
}

wire::RunReply reply_of(const stored::Job& record) {
  wire::RunReply reply;
  reply.set_job(record.job());
  reply.set_step(record.step());
  for (const stored::Pod& pod : record.pods()) reply.add_nodes(pod.node());
  for (const std::string& file : output_files(record)) reply.add_outputs(file);
  return reply;
}

}  // namespace

Result<Service::Claim> Service::claim_number(const Coordinator& coordinator) {
  FERMATA_ASSIGN(uint64_t number, store_.allot_job(1));
  for (;;) {
    const Result<uint64_t> wanted = coordinator.next_job(number);
    // Sets may never be asked for: then the folder does not matter. Nor does one that has lost
    // count.
    bool good = !wanted || *wanted == number;
    if (!good) {
      const Result<uint64_t> higher = store_.allot_job(*wanted);
      if (!higher && higher.error().code() != Code::kConflict) return Failure(higher.error());
      number = higher.value_or(number);
      good = !higher || number == *wanted;  // the folder's and ours
    }
    if (good) {
      // A restarted job brings a number that was never allotted here.
      if (std::optional<Claim> claimed = claim_unused({number, 0})) return *std::move(claimed);
      FERMATA_ASSIGN(number, store_.allot_job(1));
    }
  }
}

Result<Service::Begun> Service::begin_run(const Caller& caller, const wire::RunRequest& request,
                                          const std::stop_token& stop) {
  FERMATA_TRY_RESULT(check(request));
  FERMATA_ASSIGN(const ExternalTcp external_tcp, parse_external_tcp(request.external_tcp()));
  FERMATA_ASSIGN(Credentials owner, credentials_of(std::to_string(caller.uid)));
  auto coordinator = std::make_shared<Coordinator>(request.checkpoint_dir(), owner, &store_);
  if (request.interval_ms() != 0) FERMATA_TRY_RESULT(coordinator->make_folder());
  FERMATA_ASSIGN(const Claim claimed, claim_number(*coordinator));
  const JobStep step = claimed.step();
  FERMATA_ASSIGN(
      const Placement placement,
      nodes_.reserve_run(step, request.ranks(), {request.nodes().begin(), request.nodes().end()},
                         request.node_count()));

  stored::Job record;
  record.set_job(step.job);
  record.set_step(step.step);
  record.set_owner_uid(owner.uid);
  record.set_owner(owner.name);
  for (const std::string& node : placement.nodes) {
    stored::Pod& pod = *record.add_pods();
    pod.set_node(node);
    pod.set_known_as(node);
  }
  for (const uint32_t pod : placement.pod_of_rank) record.add_pod_of_rank(pod);
  record.set_checkpoint_dir(request.checkpoint_dir());
  record.set_interval_ms(request.interval_ms());
  *record.mutable_command() = request.command();
  record.set_output(stream_path(request.streams().output(), request.working_directory(), kOutput));
  if (!request.streams().error().empty()) {
    record.set_error(stream_path(request.streams().error(), request.working_directory(), ""));
  }
  record.set_external_tcp(std::string(external_tcp_name(external_tcp)));
  record.set_track(request.track());
  record.set_compress(request.compress());
  record.set_full_every(request.full_every());
  record.set_started(std::time(nullptr));
  if (request.has_keep()) record.set_keep(request.keep());

  auto job = std::make_shared<Job>(context(), record);
  enter(job);
  const auto launched = [&]() -> Status {
    // Known before the first pod is: what is found of it after a crash is ended.
    FERMATA_TRY(store_.put(record));
    job->tell_routes();
    return launch(fleet_, record, request, options_.launch, stop);
  }();
  if (!launched) {
    give_up(job, launched);
    return Failure(launched);
  }
  job->begun(std::move(coordinator), std::move(owner));
  return Begun{std::move(job), reply_of(record)};
}

Result<Service::Begun> Service::begin_restart(const Caller& caller,
                                              const wire::RestartRequest& request,
                                              const std::stop_token& stop) {
  std::optional<JobStep> wanted;
  std::optional<stored::Job> known;
  if (request.job() != 0) {
    wanted = JobStep{request.job(), request.step()};
    if (find(*wanted)) return Failure(still_runs(*wanted));
    known = ended(*wanted);
    FERMATA_TRY_RESULT(not_of_slurm(known));
  }
  std::filesystem::path dir = request.checkpoint_dir();
  if (dir.empty() && known) dir = known->checkpoint_dir();
  if (dir.empty()) {
    return failure(Code::kNotFound,
                   request.job() == 0
                       ? "which job, or which folder? --checkpoint-dir names one"
                       : fmt::format("job {} is not known here: --checkpoint-dir says where its "
                                     "checkpoints are",
                                     to_string(*wanted)));
  }
  FERMATA_TRY_RESULT(absolute(dir.native(), "checkpoint folder"));
  if (request.interval_ms() > kLongestInterval) {
    return failure(Code::kUsage, "the interval is too long");
  }
  FERMATA_TRY_RESULT(check_tracking(request.track(), request.full_every()));
  FERMATA_TRY_RESULT(check_compression(request.compress()).within("--compress"));
  FERMATA_ASSIGN(Credentials owner, folder_owner(caller, dir));
  auto coordinator = std::make_shared<Coordinator>(dir, owner, &store_);
  const std::optional<Crid> crid =
      request.crid() == 0 ? std::nullopt : std::optional(Crid{request.crid()});
  if (!wanted) {
    FERMATA_ASSIGN(const ChosenSet newest, coordinator->choose(std::nullopt, crid));
    wanted = newest.manifest.job;
    known = ended(*wanted);
    FERMATA_TRY_RESULT(not_of_slurm(known));
  }
  if (known && known->owner_uid() != owner.uid) {
    // Another cluster's or folder's job of this number: nothing of it is this one's.
    return failure(Code::kPermission,
                   fmt::format("job {} was user {}'s, folder {} is user {}'s", to_string(*wanted),
                               known->owner(), dir.native(), owner.name));
  }
  if (!known && wanted->job <= kLastOfSlurm) {
    FERMATA_ASSIGN(const uint64_t last, store_.last_job());
    if (last >= kLastOfSlurm) {
      // It would be in the way of Slurm's job of this number.
      return failure(
          Code::kUsage,
          fmt::format("job numbers up to {} are Slurm's here: `srun --restart={} "
                      "--restart-dir={}` continues job {} under a number of its own",
                      kLastOfSlurm, crid ? std::to_string(crid->value) : std::string("latest"),
                      dir.native(), to_string(*wanted)));
    }
  }
  FERMATA_ASSIGN(const Claim claimed, claim(*wanted));
  if (const Status settled = coordinator->settle_attempts(*wanted); !settled) {
    // A folder that is full or read-only: what is committed can be read all the same.
    log_warning(fmt::format("{}: what earlier attempts left stays: {}", dir.native(),
                            storage::printable(settled.message())));
  }
  FERMATA_ASSIGN(const ChosenSet set, coordinator->choose(wanted, crid));
  FERMATA_TRY_RESULT(check_owner(set, owner));
  FERMATA_ASSIGN(stored::Job record, record_of(set.manifest, known ? &*known : nullptr));
  // Also of a number that was allotted before the store was lost: no new job gets it.
  FERMATA_TRY_RESULT(store_.raise_job(wanted->job));
  record.set_owner_uid(owner.uid);
  record.set_owner(owner.name);
  record.set_checkpoint_dir(dir.native());
  if (!request.track().empty()) record.set_track(request.track());
  if (!request.compress().empty()) record.set_compress(request.compress());
  if (request.full_every() != 0) record.set_full_every(request.full_every());
  if (!request.same_interval()) record.set_interval_ms(request.interval_ms());
  record.set_started(std::time(nullptr));
  if (request.has_keep()) record.set_keep(request.keep());
  const std::string folder =
      request.working_directory().empty() ? dir.native() : request.working_directory();
  if (!request.streams().output().empty() || record.output().empty()) {
    record.set_output(stream_path(request.streams().output(), folder, kOutput));
    record.clear_error();
  }
  if (!request.streams().error().empty()) {
    record.set_error(stream_path(request.streams().error(), folder, ""));
  }
  FERMATA_TRY_RESULT(absolute(record.output(), "output"));

  std::vector<uint32_t> ranks(static_cast<size_t>(record.pods_size()), 0);
  for (const uint32_t pod : record.pod_of_rank()) ++ranks[pod];
  std::vector<std::string> before(ranks.size());
  for (const storage::ManifestImage& image : set.manifest.images) before[image.pod] = image.host;
  std::vector<std::string> names(request.nodes().begin(), request.nodes().end());
  if (request.stick() && names.empty()) names = before;
  FERMATA_ASSIGN(const std::vector<std::string> nodes,
                 nodes_.reserve_restart(*wanted, ranks, names, before));
  for (size_t i = 0; i < nodes.size(); ++i) {
    record.mutable_pods(static_cast<int>(i))->set_node(nodes[i]);
  }
  const Result<uint32_t> start = store_.allot_start(*wanted);
  if (!start) {
    nodes_.release(*wanted);
    return Failure(start.error());
  }
  record.set_start(*start);

  auto job = std::make_shared<Job>(context(), record);
  enter(job);
  Result<std::vector<std::string>> notes = [&]() -> Result<std::vector<std::string>> {
    FERMATA_TRY_RESULT(store_.put(record));
    job->tell_routes();
    return coord::restart(fleet_, record, set, {request.numa(), request.lazy()}, options_.restart,
                          stop);
  }();
  if (!notes) {
    give_up(job, notes.error());
    return Failure(notes.error());
  }
  job->begun(std::move(coordinator), std::move(owner));
  Begun begun{std::move(job), reply_of(record)};
  begun.reply.set_crid(set.manifest.crid.value);
  for (std::string& note : *notes) begun.reply.add_notes(std::move(note));
  return begun;
}

}  // namespace fermata::coord
