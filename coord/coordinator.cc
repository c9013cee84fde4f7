#include "coord/coordinator.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "common/file_util.h"
#include "common/log.h"
#include "storage/printable.h"
#include "storage/removal.h"
#include "storage/write_rate.h"

namespace fermata::coord {
namespace {

using storage::Ledger;
using storage::LedgerSet;
using storage::Manifest;
using storage::SetState;

// Chains of so few bytes are never too dear.
constexpr uint64_t kSmallChain = 256 << 20;

double milliseconds_of(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

/// A sentence about the checkpoint folder names it.
Status naming(const Status& status, const std::filesystem::path& dir) {
  const bool named = status.message().find(dir.string()) != std::string::npos;
  return named ? status : status.within(dir.string());
}

/// What a restart from `manifest` reads, and how many sets that are.
void tell_chain(const std::optional<Manifest>& parent, Manifest& manifest) {
  if (!parent || manifest.parent.value == 0) return;
  manifest.chain_sets = parent->chain_sets + 1;
  manifest.chain_bytes = parent->chain_bytes + parent->bytes();
}

Manifest manifest_of_reports(const SetOrder& order, const JobDescription& job,
                             std::span<Agent* const> agents, const SetOutcome& so_far) {
  Manifest manifest;
  manifest.crid = order.crid;
  manifest.job = job.job;
  manifest.ranks = job.ranks;
  manifest.command = job.command;
  manifest.user = job.owner.name;
  manifest.tool_version = FERMATA_VERSION;
  manifest.result = order.end_job ? "killed" : "resumed";
  manifest.pod_of_rank = job.pod_of_rank;
  manifest.external_tcp = external_tcp_name(job.external_tcp);
  for (size_t i = 0; i < so_far.reports.size(); ++i) {
    const AgentReport& report = so_far.reports[i];
    storage::ManifestImage image;
    image.pod = static_cast<uint32_t>(i);
    image.host = agents[i]->node();
    image.known_as = i < job.hosts.size() ? job.hosts[i] : image.host;
    image.file = report.image;
    image.bytes = report.image_bytes;
    image.memory_bytes = report.memory_bytes;
    image.digest = report.digest;
    image.stand_still_ms = milliseconds_of(report.stand_still);
    image.held_ms = milliseconds_of(report.held);
    image.snapshot = report.snapshot;
    image.track = report.track;
    manifest.parent = std::max(manifest.parent, report.parent);
    for (const Duration took : so_far.took[i]) image.phases_ms.push_back(milliseconds_of(took));
    manifest.stand_still_ms = std::max(manifest.stand_still_ms, image.stand_still_ms);
    manifest.held_ms = std::max(manifest.held_ms, image.held_ms);
    manifest.images.push_back(std::move(image));
    if (manifest.time.empty()) manifest.time = report.time;
  }
  for (const Phase phase : kPhases) {
    manifest.phases_ms.emplace_back(phase_name(phase),
                                    milliseconds_of(so_far.phase_time[static_cast<size_t>(phase)]));
  }
  return manifest;
}

/// Whether what was captured can be a set: connections that leave the job.
Status judge(const JobDescription& job, std::span<Agent* const> agents, const SetOutcome& so_far,
             LeavingJudge& connections) {
  if (job.external_tcp == ExternalTcp::kReset) return Status::ok();
  std::vector<PodConnections> pods;
  for (size_t i = 0; i < agents.size(); ++i) {
    pods.push_back({agents[i]->node(), so_far.reports[i].connections});
  }
  return connections.judge(pods, leaving_connections(pods, job.own_hosts), job.own_hosts);
}

/// Removes what there is of an attempt. Should something stay, or come from an agent that was not
/// reached, it is an attempt still and is looked at again before the next.
Status abort_attempt(Ledger& ledger, Crid crid, const std::filesystem::path& folder,
                     std::string_view why) {
  if (!folder.empty()) FERMATA_TRY(storage::remove_part_files(folder));
  std::error_code ignored;
  if (!folder.empty() && std::filesystem::exists(folder, ignored)) {
    return {Code::kBusy, fmt::format("folder {} is not empty", folder.native())};
  }
  return ledger.abort(crid, why);
}

/// A set that another is built on.
Status committed_still(const std::filesystem::path& folder) {
  const Result<Manifest> parent = storage::read_manifest(folder);
  return parent ? Status::ok() : parent.error().within("the set that this one is built on");
}

}  // namespace

Status check_owner(const ChosenSet& set, const Credentials& owner) {
  const std::filesystem::path manifest = set.folder / "set.json";
  struct stat status {};
  const Result<FsCredentialScope> scope = FsCredentialScope::enter(owner);
  if (!scope) return scope.error();
  if (lstat(manifest.c_str(), &status) != 0) return errno_status(errno, manifest.native());
  if (!S_ISREG(status.st_mode)) {
    return {Code::kDamaged, fmt::format("{}: not a regular file", manifest.native())};
  }
  if (status.st_uid == owner.uid) return Status::ok();
  return {Code::kPermission, fmt::format("{}: belongs to user {}, not to {}", manifest.native(),
                                         status.st_uid, owner.name)};
}

Coordinator::Coordinator(std::filesystem::path dir, Credentials owner, CridSource* crids)
    : dir_(std::move(dir)), owner_(std::move(owner)), crids_(crids) {
  const Result<FsCredentialScope> scope = FsCredentialScope::enter(owner_);
  std::error_code ignored;
  folder_expected_ = std::filesystem::exists(dir_, ignored);
  ledger_expected_ = Ledger::open(dir_).has_value();
}

Status Coordinator::make_folder() {
  FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const Ledger ledger, open_folder());
  return {};
}

Result<Ledger> Coordinator::open_folder() {
  std::error_code ignored;
  if (folder_expected_ && !std::filesystem::is_directory(dir_, ignored)) {
    return failure(Code::kStorage, fmt::format("{}: the checkpoint folder is gone, or is no folder",
                                               dir_.string()));
  }
  if (!folder_expected_) FERMATA_TRY_RESULT(make_directories(dir_, 0700));
  folder_expected_ = true;
  FERMATA_ASSIGN(Ledger ledger,
                 ledger_expected_ ? Ledger::open(dir_) : Ledger::open_or_create(dir_));
  ledger_expected_ = true;
  return ledger;
}

Result<uint64_t> Coordinator::next_job(uint64_t minimum) const {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  Result<Ledger> ledger = Ledger::open(dir_);
  if (!ledger) {
    if (ledger.error().code() == Code::kNotFound) return minimum;
    return Failure(std::move(ledger).error());
  }
  return ledger->allot_job(minimum);
}

Result<double> Coordinator::write_rate() const {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  return storage::measure_write_rate(dir_);
}

Result<storage::Pruned> Coordinator::prune(JobStep job, uint32_t keep, bool dry_run) const {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  return storage::prune(dir_, job, keep, dry_run);
}

Status Coordinator::settle_attempts(JobStep job) const {
  FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
  FERMATA_ASSIGN_STATUS(Ledger ledger, Ledger::open(dir_));
  return settle_attempts(ledger, job);
}

Status Coordinator::settle_attempts(Ledger& ledger, JobStep job) const {
  FERMATA_ASSIGN_STATUS(const std::vector<LedgerSet> attempts, ledger.attempts(job));
  for (const LedgerSet& set : attempts) {
    const std::filesystem::path folder = storage::set_folder(dir_, set.job, set.crid);
    // The manifest decides: an agent that died after it was durable had committed the set.
    const Result<Manifest> manifest = storage::read_manifest(folder);
    if (manifest) {
      FERMATA_TRY(ledger.commit(*manifest));
    } else if (manifest.error().code() == Code::kNotFound) {
      FERMATA_TRY(
          abort_attempt(ledger, set.crid, folder, "what took it died before it was committed"));
    }
  }
  return {};
}

std::optional<Manifest> Coordinator::parent_for(Ledger& ledger, const JobDescription& job) const {
  // What is read at a restart: with the bytes of the chain grows what is read in vain.
  constexpr uint64_t kReadInVain = 2;
  if (job.full_every <= 1 || job.track == "none") return std::nullopt;
  const Result<LedgerSet> newest = ledger.latest_committed(job.job);
  if (!newest) return std::nullopt;
  Result<Manifest> manifest = manifest_of(*newest);
  if (!manifest || manifest->chain_sets + 1 >= std::min(job.full_every, kFullEveryMost)) {
    return std::nullopt;
  }
  uint64_t memory = 0;
  for (const storage::ManifestImage& image : manifest->images) memory += image.memory_bytes;
  if (manifest->parent.value != 0 &&
      manifest->chain_bytes + manifest->bytes() > kReadInVain * memory + kSmallChain) {
    return std::nullopt;
  }
  return *std::move(manifest);
}

Result<Crid> Coordinator::begin_attempt(Ledger& ledger, const JobDescription& job,
                                        Crid parent) const {
  const std::string command = display_command(job.command);
  if (crids_ == nullptr) return ledger.allot_crid(job.job, job.owner.name, command, parent);
  for (;;) {
    FERMATA_ASSIGN(const Crid next, ledger.next_crid());
    FERMATA_ASSIGN(const Crid crid, crids_->allot_crid(next));
    const Status claimed = ledger.claim_crid(crid, job.job, job.owner.name, command, parent);
    if (claimed) return crid;
    // Somebody else took a number of this folder in between: a higher one then.
    if (claimed.code() != Code::kConflict) return Failure(claimed);
  }
}

TriedSet Coordinator::take_set(const JobDescription& job, std::span<Agent* const> agents,
                               bool end_job) {
  LeavingJudge connections(/*cut=*/true);
  const Time requested = job.requested.value_or(Clock::steady().now());
  TriedSet tried;
  SameEachTime same(patience_);
  const uint32_t attempts = try_patiently(patience_, [&] {
    tried = try_set(job, agents, end_job, requested, connections);
    same.note(tried.outcome.status,
              tried.outcome.phase_time[static_cast<size_t>(Phase::kCapture)] > Duration{});
    if (tried.outcome.status.code() == Code::kBusy) {
      log_info(fmt::format("job {}: set {}: {}", to_string(job.job), to_string(tried.crid),
                           storage::printable(tried.outcome.status.message())));
    }
    return tried.outcome.status.code();
  });
  tried.attempts = attempts;
  tried.outcome.status = same.verdict();
  return tried;
}

TriedSet Coordinator::try_set(const JobDescription& job, std::span<Agent* const> agents,
                              bool end_job, Time requested, LeavingJudge& connections) {
  TriedSet tried;
  for (const Agent* agent : agents) tried.nodes.push_back(agent->node());
  SetOrder order;
  order.job = job.job;
  order.end_job = end_job;
  // Where no set builds on another, to know what was written serves nobody.
  order.track = job.full_every <= 1 ? "none" : job.track;
  order.compress = job.compress;
  std::optional<Manifest> parent;
  storage::wait_for_freed_room();  // of older sets; this one may need it

  // The CRID is durable before anything is made under it.
  const auto begin = [&]() -> Status {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
    FERMATA_ASSIGN_STATUS(Ledger ledger, open_folder());
    FERMATA_TRY(settle_attempts(ledger, job.job));
    parent = parent_for(ledger, job);
    if (parent) order.parent = parent->crid;
    FERMATA_ASSIGN_STATUS(order.crid, begin_attempt(ledger, job, order.parent));
    tried.crid = order.crid;
    FERMATA_ASSIGN_STATUS(order.folder, storage::make_set_folder(dir_, job.job, order.crid));
    tried.folder = order.folder;
    return {};
  };
  Duration waited{};
  const auto write_manifest = [&](const SetOutcome& so_far) -> Status {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
    tried.manifest = manifest_of_reports(order, job, agents, so_far);
    tell_chain(parent, tried.manifest);
    // Removed by hand, or by somebody's `fermata prune`, since the attempt began.
    if (tried.manifest.parent.value != 0) {
      FERMATA_TRY(committed_still(storage::set_folder(dir_, job.job, tried.manifest.parent)));
    }
    tried.manifest.request_ms = milliseconds_of(waited);
    return storage::write_manifest(order.folder, tried.manifest);
  };

  tried.outcome.status = naming(begin(), dir_);
  if (tried.outcome.status) {
    const auto judge_cut = [&](const SetOutcome& so_far) {
      return judge(job, agents, so_far, connections);
    };
    waited = Clock::steady().now() - requested;
    tried.outcome =
        coord::take_set(order, agents, deadlines_, Clock::steady(), judge_cut, write_manifest);
  }
  if (tried.crid.value == 0) return tried;

  // What is recorded now follows the manifest; should it fail, the next settle_attempts() mends it.
  const auto record = [&]() -> Status {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(owner_));
    FERMATA_ASSIGN_STATUS(Ledger ledger, Ledger::open(dir_));
    if (tried.outcome.committed()) return ledger.commit(tried.manifest);
    return abort_attempt(ledger, tried.crid, tried.folder, tried.outcome.status.message());
  };
  const Status recorded = record();
  if (!recorded) {
    log_warning(fmt::format("set {}: the ledger does not know yet what became of it: {}",
                            to_string(tried.crid), storage::printable(recorded.message())));
  } else if (tried.outcome.committed() && job.keep != 0) {
    retain(job);
  }
  return tried;
}

void Coordinator::retain(const JobDescription& job) const {
  const Result<storage::Pruned> pruned = prune(job.job, job.keep, /*dry_run=*/false);
  if (!pruned) {
    // The new set is committed all the same; the next one tries again.
    log_warning(fmt::format("job {}: older sets stay: {}", to_string(job.job),
                            storage::printable(pruned.error().message())));
    return;
  }
  for (const LedgerSet& set : pruned->removed) {
    log_info(fmt::format("job {}: set {} was removed: the last {} are kept", to_string(job.job),
                         to_string(set.crid), job.keep));
  }
}

}  // namespace fermata::coord
