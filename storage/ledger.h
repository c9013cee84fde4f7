// The ledger of a checkpoint folder, <dir>/ledger.sqlite: CRIDs, job numbers, attempts and sets.
// The manifests are what decides which sets are committed; the ledger can be rebuilt from them.
//
// Several processes may use one ledger at once. An object is for one thread at a time, and each
// call - not only the opening - acts on the file system as the calling thread: hold the
// FsCredentialScope of the folder's owner.
//
// Failures: kDamaged (the sentence names `fermata ls --rebuild`), kNotFound, kStorage (full,
// read-only), kBusy (another process held it for 10 s).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/status.h"

namespace fermata::storage {

struct Manifest;

enum class SetState { kAttempt, kCommitted, kAborted, kDeleted };
/// "attempt", "committed", "aborted", "deleted".
std::string_view state_name(SetState state);

struct LedgerSet {
  Crid crid;
  Crid parent;
  JobStep job;
  SetState state = SetState::kAttempt;
  std::string user;
  std::string command;  ///< words joined by spaces, for display
  std::string time;     ///< attempt: when it began; committed: of the cut
  std::string reason;   ///< aborted: why
  uint64_t bytes = 0;
  double stand_still_ms = 0;
};

struct RebuiltLedger {
  uint64_t sets = 0;                  ///< committed sets found
  std::vector<std::string> problems;  ///< one sentence for each manifest that could not be used
};

class Ledger {
 public:
  /// Opens the ledger of `dir`. kNotFound when there is none.
  static Result<Ledger> open(const std::filesystem::path& dir);
  /// The same, and makes it when `dir` has neither ledger nor sets. A folder with sets and no
  /// ledger is refused (kDamaged): its CRIDs must not be given again.
  static Result<Ledger> open_or_create(const std::filesystem::path& dir);
  /// Makes the ledger true again from the manifests and the names of the folders; a ledger that
  /// cannot be read is kept as ledger.sqlite.damaged. Never lowers the counters.
  static Result<RebuiltLedger> rebuild(const std::filesystem::path& dir);

  Ledger(Ledger&&) noexcept;
  Ledger& operator=(Ledger&&) noexcept;
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;
  ~Ledger();

  /// A new CRID, greater than every one before, and the record of an attempt. Durable when it
  /// returns.
  Result<Crid> allot_crid(JobStep job, std::string_view user, std::string_view command,
                          Crid parent = {});
  /// The CRID allot_crid() would give now.
  Result<Crid> next_crid();
  /// allot_crid() of a number given from outside. kConflict: it is not greater than every one
  /// before.
  Status claim_crid(Crid crid, JobStep job, std::string_view user, std::string_view command,
                    Crid parent = {});
  /// A job number greater than all before in this folder, and at least `minimum`. Durable when it
  /// returns.
  Result<uint64_t> allot_job(uint64_t minimum);

  /// After write_manifest().
  Status commit(const Manifest& manifest);
  Status abort(Crid crid, std::string_view reason);
  /// The set's files were deleted; its CRID stays known.
  Status mark_deleted(Crid crid);

  /// All sets and attempts in ascending order of CRID; of one job where given.
  Result<std::vector<LedgerSet>> sets(std::optional<JobStep> job = std::nullopt);
  /// Those that are neither committed nor given up.
  Result<std::vector<LedgerSet>> attempts(JobStep job);
  /// kNotFound, naming the CRID.
  Result<LedgerSet> find(Crid crid);
  /// The newest committed set of a job, or of all. kNotFound when there is none.
  Result<LedgerSet> latest_committed(std::optional<JobStep> job = std::nullopt);

 private:
  struct State;
  explicit Ledger(std::unique_ptr<State> state);
  Status begin_attempt(Crid crid, JobStep job, std::string_view user, std::string_view command,
                       Crid parent);
  /// `condition` may name the job as ?1 and its step as ?2.
  Result<std::vector<LedgerSet>> select(std::string_view condition, JobStep job);
  std::unique_ptr<State> state_;
};

}  // namespace fermata::storage
