// Takes sets of a job and finds the one to restart from: allots CRIDs, runs the set protocol,
// writes the manifest, keeps the ledger. Stateless but for the files of the checkpoint folder,
// which it opens anew for each set and with the job owner's rights. One thread.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "coord/connections.h"
#include "coord/patience.h"
#include "coord/set_protocol.h"
#include "storage/ledger.h"
#include "storage/manifest.h"
#include "storage/retention.h"

namespace fermata::coord {

/// Of sets that build on each other, every so manieth is full.
inline constexpr uint32_t kFullEvery = 10;
/// No longer chain can be asked for.
inline constexpr uint32_t kFullEveryMost = 200;

/// What the coordinator has to know of a job.
struct JobDescription {
  JobStep job;
  uint32_t ranks = 1;
  std::vector<std::string> command;
  Credentials owner;
  std::vector<uint32_t> pod_of_rank = {};  ///< empty: all in one pod
  std::vector<std::string> hosts = {};     ///< by pod: the name its ranks know; empty: the node's
  ExternalTcp external_tcp = ExternalTcp::kRefuse;
  Addresses own_hosts = {};            ///< of the nodes it runs on
  std::string track = "none";          ///< how writes to memory are tracked (`--track`)
  std::string compress = {};           ///< pages in images (`--compress`); empty: as nodes have it
  uint32_t full_every = kFullEvery;    ///< every so manieth set is a full one
  std::optional<Time> requested = {};  ///< when the set was; unset: take_set() is the request
  /// So many of its newest sets stay once another is committed; 0: all (storage/retention.h).
  uint32_t keep = 0;
};

/// Numbers of sets that are unique beyond one checkpoint folder.
class CridSource {
 public:
  CridSource() = default;
  CridSource(const CridSource&) = delete;
  CridSource& operator=(const CridSource&) = delete;
  virtual ~CridSource() = default;
  /// A CRID never given before and not below `at_least`. Durable when it returns.
  virtual Result<Crid> allot_crid(Crid at_least) = 0;
};

/// A set that was tried.
struct TriedSet {
  Crid crid;  ///< 0: not even a CRID could be allotted
  std::filesystem::path folder;
  SetOutcome outcome;
  storage::Manifest manifest;      ///< of a committed set
  std::vector<std::string> nodes;  ///< of the agents
  uint32_t attempts = 0;           ///< what is told of is the last one
};

/// A committed set and where its images lie.
struct ChosenSet {
  storage::Manifest manifest;
  std::filesystem::path folder;
};

/// A job becomes what the owner of its manifest is, whatever stands in it, as who could write that
/// file could run programs as that user anyway. kPermission: it is not `owner`.
Status check_owner(const ChosenSet& set, const Credentials& owner);

class Coordinator {
 public:
  /// `dir`: the checkpoint folder; one that exists now is expected to be there for every set: what
  /// vanishes under a job (a file system unmounted) is not made anew. `owner`: whose rights are
  /// used on it. `crids`: where CRIDs come from, above those of the folder; null: the folder.
  Coordinator(std::filesystem::path dir, Credentials owner, CridSource* crids = nullptr);

  const std::filesystem::path& dir() const { return dir_; }
  const Credentials& owner() const { return owner_; }
  Deadlines& deadlines() { return deadlines_; }
  Patience& patience() { return patience_; }
  const Patience& patience() const { return patience_; }

  /// Makes the folder and its ledger where they are missing. For an early, clear sentence.
  Status make_folder();

  /// A number for a new job, above all that this folder knows, where it has a ledger; else
  /// `minimum`.
  Result<uint64_t> next_job(uint64_t minimum) const;

  /// Takes one set; each attempt, as patience() allows, has a CRID of its own. The outcome says
  /// whether it is committed. What earlier attempts of the job left is removed first: the caller
  /// must be the only one who works on the job.
  TriedSet take_set(const JobDescription& job, std::span<Agent* const> agents, bool end_job);

  /// Removes the sets of a job beyond the newest `keep` (storage/retention.h).
  Result<storage::Pruned> prune(JobStep job, uint32_t keep, bool dry_run) const;

  /// Bytes a second that the folder takes: a short trial.
  Result<double> write_rate() const;

  /// The committed set `crid`, or the newest of `job`, or the newest of the folder. Never one that
  /// is not committed: where the ledger does not know yet, its manifest does.
  Result<ChosenSet> choose(std::optional<JobStep> job, std::optional<Crid> crid) const;

  /// Attempts of a job nobody works on: those with a manifest are committed, of the others the
  /// files are removed. The caller must hold the job.
  Status settle_attempts(JobStep job) const;

 private:
  /// Both with the owner's rights.
  Result<storage::Ledger> open_folder();
  Status settle_attempts(storage::Ledger& ledger, JobStep job) const;
  TriedSet try_set(const JobDescription& job, std::span<Agent* const> agents, bool end_job,
                   Time requested, LeavingJudge& connections);
  /// The set that one taken now may build on, if any.
  std::optional<storage::Manifest> parent_for(storage::Ledger& ledger,
                                              const JobDescription& job) const;
  void retain(const JobDescription& job) const;
  Result<Crid> begin_attempt(storage::Ledger& ledger, const JobDescription& job, Crid parent) const;
  Result<storage::Manifest> manifest_of(const storage::LedgerSet& set) const;
  Result<ChosenSet> newest(storage::Ledger& ledger, std::optional<JobStep> job) const;

  std::filesystem::path dir_;
  Credentials owner_;
  CridSource* crids_;
  Deadlines deadlines_;
  Patience patience_;
  bool folder_expected_ = false;
  bool ledger_expected_ = false;
};

/// `words` as a shell would take them: for display.
std::string display_command(const std::vector<std::string>& words);

}  // namespace fermata::coord
