// Ledger::rebuild: what the folders say wins over what the ledger says; only its counters are kept.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "common/file_util.h"
#include "common/unique_fd.h"
#include "storage/ledger.h"
#include "storage/ledger_tables.h"
#include "storage/manifest.h"
#include "storage/set_folders.h"
#include "storage/sqlite.h"

namespace fermata::storage {
namespace {

// Attempts that failed leave no folder. Where the counter of the old ledger cannot be read, this
// many CRIDs are taken to have been given out since the newest folder.
constexpr uint64_t kLostCrids = 1000;
constexpr std::chrono::seconds kLockPatience{10};

/// A counter is not that far above the sets there are, however many were deleted.
constexpr uint64_t kFarthest = 1ULL << 32;

struct Found {
  std::map<Crid, Manifest> committed;
  std::map<Crid, std::string> unusable;  // manifests, with the sentence
  uint64_t highest_crid = 0;
  uint64_t highest_job = 0;
};

Result<Found> look(const std::filesystem::path& dir) {
  Found found;
  FERMATA_ASSIGN(found.highest_job, highest_job(dir));
  FERMATA_ASSIGN(const auto folders, set_folders(dir));
  for (const SetFolder& folder : folders) {
    if (folder.crid.value > kMaxCrid / 2 || folder.job.job > kMaxCrid / 2) {
      found.unusable.emplace(folder.crid, fmt::format("folder {} has a number that was never given",
                                                      folder.path.native()));
      continue;
    }
    found.highest_crid = std::max(found.highest_crid, folder.crid.value);
    auto manifest = read_manifest(folder.path);
    if (manifest) {
      found.committed.emplace(folder.crid, *std::move(manifest));
    } else if (manifest.error().code() != Code::kNotFound) {
      found.unusable.emplace(folder.crid, manifest.error().message());
    }
  }
  found.highest_job = std::min(found.highest_job, kMaxCrid / 2);
  return found;
}

// Sets that the ledger calls committed and the folders do not.
Status correct_states(Database& db, const Found& found) {
  FERMATA_ASSIGN_STATUS(Statement query,
                        db.prepare("SELECT crid FROM sets WHERE state='committed'"));
  std::vector<Crid> gone;
  for (;;) {
    FERMATA_ASSIGN_STATUS(const bool row, query.step());
    if (!row) break;
    const Crid crid{static_cast<uint64_t>(query.integer(0))};
    if (!found.committed.contains(crid)) gone.push_back(crid);
  }
  for (const Crid crid : gone) {
    FERMATA_ASSIGN_STATUS(Statement update,
                          db.prepare("UPDATE sets SET state=?2, reason=?3 WHERE crid=?1"));
    const auto problem = found.unusable.find(crid);
    const bool unusable = problem != found.unusable.end();
    update.bind(1, static_cast<int64_t>(crid.value));
    update.bind(2, state_name(unusable ? SetState::kAborted : SetState::kDeleted));
    update.bind(3, unusable ? std::string_view(problem->second) : std::string_view());
    FERMATA_TRY(update.run());
  }
  return Status::ok();
}

Status fill(Database& db, const Found& found, uint64_t lowest_crid) {
  for (const auto& [crid, manifest] : found.committed) FERMATA_TRY(put_committed(db, manifest));
  FERMATA_TRY(correct_states(db, found));
  FERMATA_TRY(raise_counter(db, "crid", std::max(lowest_crid, found.highest_crid)));
  return raise_counter(db, "job", found.highest_job);
}

// True: the ledger was whole and is now true again. False: it has to be made anew.
Result<bool> mend(const std::filesystem::path& file, const Found& found) {
  auto db = Database::open(file, Database::Mode::kExisting);
  if (!db) {
    if (db.error().code() == Code::kDamaged || ::access(file.c_str(), F_OK) != 0) return false;
    return Failure(db.error());
  }
  const auto attempt = [&]() -> Status {
    FERMATA_ASSIGN_STATUS(Transaction transaction, Transaction::begin(*db));
    FERMATA_ASSIGN_STATUS(const int64_t version, ledger_version(*db));
    if (version == 0) return {Code::kDamaged, "no tables"};
    {
      FERMATA_ASSIGN_STATUS(Statement check, db->prepare("PRAGMA integrity_check(1)"));
      FERMATA_ASSIGN_STATUS(const bool row, check.step());
      if (!row || check.text(0) != "ok") return {Code::kDamaged, "not whole"};
    }
    {
      FERMATA_ASSIGN_STATUS(
          Statement check,
          db->prepare("SELECT count(*) FROM counters WHERE name IN ('crid', 'job') AND "
                      "typeof(value) = 'integer' AND value BETWEEN 0 AND ?1"));
      check.bind(1,
                 static_cast<int64_t>(std::max(found.highest_crid, found.highest_job) + kFarthest));
      FERMATA_ASSIGN_STATUS(const bool row, check.step());
      if (!row || check.integer(0) != 2) return {Code::kDamaged, "no counters"};
    }
    FERMATA_TRY(fill(*db, found, 0));
    return transaction.commit();
  };
  const Status status = attempt();
  if (status) return true;
  if (status.code() == Code::kDamaged) return false;
  return Failure(status);
}

// The counter of a damaged ledger, when it can still be read and makes sense.
uint64_t salvage_counter(const std::filesystem::path& file, uint64_t highest_seen) {
  auto db = Database::open(file, Database::Mode::kExisting);
  if (!db) return 0;
  auto query = db->prepare("SELECT value FROM counters WHERE name='crid'");
  if (!query) return 0;
  const auto row = query->step();
  if (!row || !*row || query->integer(0) <= 0) return 0;
  const auto value = static_cast<uint64_t>(query->integer(0));
  constexpr uint64_t kPlausible = 1'000'000;
  return value >= highest_seen && value - highest_seen <= kPlausible ? value : 0;
}

Status set_aside(const std::filesystem::path& file) {
  // The journal goes first: it must never be applied to another database of the same name.
  for (const char* suffix : {"-journal", ""}) {
    const std::string from = file.native() + suffix;
    const std::string to = file.native() + ".damaged" + suffix;
    if (::rename(from.c_str(), to.c_str()) != 0 && errno != ENOENT) {
      return errno_status(Code::kStorage, errno, "cannot rename " + from);
    }
  }
  return Status::ok();
}

Status make_anew(const std::filesystem::path& file, const Found& found) {
  const uint64_t known = salvage_counter(file, found.highest_crid);
  const uint64_t lowest = known > 0 ? known : found.highest_crid + kLostCrids;
  std::filesystem::path fresh = file;
  fresh += ".rebuilt";
  ::unlink(fresh.c_str());
  Status status = [&]() -> Status {
    FERMATA_ASSIGN_STATUS(Database db, Database::open(fresh, Database::Mode::kCreate));
    FERMATA_ASSIGN_STATUS(Transaction transaction, Transaction::begin(db));
    FERMATA_TRY(make_tables(db));
    FERMATA_TRY(fill(db, found, lowest));
    return transaction.commit();
  }();
  if (status) status = set_aside(file);
  if (status && ::rename(fresh.c_str(), file.c_str()) != 0) {
    status = errno_status(Code::kStorage, errno, "cannot rename " + fresh.native());
  }
  if (!status) {
    ::unlink(fresh.c_str());
    return status;
  }
  return fsync_dir(file.parent_path());
}

}  // namespace

Result<RebuiltLedger> Ledger::rebuild(const std::filesystem::path& dir) {
  // Two rebuilds at once would each set the other's work aside.
  const UniqueFd lock(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.valid()) return errno_failure(errno, "cannot open folder " + dir.native());
  FERMATA_TRY_RESULT(lock_within(lock.get(), kLockPatience, dir.native()));

  FERMATA_ASSIGN(const Found found, look(dir));
  const std::filesystem::path file = dir / kLedgerFile;
  FERMATA_ASSIGN(const bool mended, mend(file, found));
  if (!mended) FERMATA_TRY_RESULT(make_anew(file, found));
  RebuiltLedger rebuilt;
  rebuilt.sets = found.committed.size();
  for (const auto& [crid, problem] : found.unusable) rebuilt.problems.push_back(problem);
  return rebuilt;
}

}  // namespace fermata::storage
