#include "storage/ledger.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/fault_point.h"
#include "common/file_util.h"
#include "storage/image.h"
#include "storage/ledger_tables.h"
#include "storage/manifest.h"
#include "storage/set_folders.h"
#include "storage/sqlite.h"

namespace fermata::storage {
namespace {

constexpr int64_t kVersion = 1;

constexpr const char* kTables = R"(
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES('crid', 0), ('job', 0);
CREATE TABLE sets(
  crid INTEGER PRIMARY KEY, parent INTEGER NOT NULL, job INTEGER NOT NULL, step INTEGER NOT NULL,
  state TEXT NOT NULL, user TEXT NOT NULL, command TEXT NOT NULL, time TEXT NOT NULL,
  reason TEXT NOT NULL, bytes INTEGER NOT NULL, stand_still_ms REAL NOT NULL);
CREATE INDEX sets_of_job ON sets(job, step);
PRAGMA user_version=1;
)";

constexpr std::string_view kColumns =
    "crid, parent, job, step, state, user, command, time, reason, bytes, stand_still_ms";

Result<LedgerSet> row_of(const Statement& row) {
  LedgerSet set;
  set.crid.value = static_cast<uint64_t>(row.integer(0));
  set.parent.value = static_cast<uint64_t>(row.integer(1));
  set.job.job = static_cast<uint64_t>(row.integer(2));
  set.job.step = static_cast<uint32_t>(row.integer(3));
  const std::string state = row.text(4);
  bool known = false;
  for (const SetState candidate :
       {SetState::kAttempt, SetState::kCommitted, SetState::kAborted, SetState::kDeleted}) {
    if (state != state_name(candidate)) continue;
    set.state = candidate;
    known = true;
  }
  if (!known) {
    return failure(Code::kDamaged,
                   fmt::format("the ledger says that set {} is '{}': fermata ls --rebuild makes it "
                               "again from the sets",
                               set.crid.value, state));
  }
  set.user = row.text(5);
  set.command = row.text(6);
  set.time = row.text(7);
  set.reason = row.text(8);
  set.bytes = static_cast<uint64_t>(row.integer(9));
  set.stand_still_ms = row.real(10);
  return set;
}

Failure lost(const std::filesystem::path& file) {
  return failure(Code::kDamaged,
                 fmt::format("ledger {} is missing or empty, but there are sets beside it: fermata "
                             "ls --rebuild makes it again from them",
                             file.native()));
}

bool present(const std::filesystem::path& file) {
  std::error_code ignored;
  return std::filesystem::exists(file, ignored);
}

}  // namespace

std::string_view state_name(SetState state) {
  switch (state) {
    case SetState::kAttempt:
      return "attempt";
    case SetState::kCommitted:
      return "committed";
    case SetState::kAborted:
      return "aborted";
    case SetState::kDeleted:
      return "deleted";
  }
  return "unknown";
}

Result<int64_t> ledger_version(Database& db) {
  FERMATA_ASSIGN(Statement statement, db.prepare("PRAGMA user_version"));
  FERMATA_ASSIGN(const bool row, statement.step());
  const int64_t version = row ? statement.integer(0) : 0;
  if (version > kVersion) {
    return failure(Code::kUnsupported,
                   fmt::format("the ledger has version {}, this fermata knows {}: use a newer one",
                               version, kVersion));
  }
  return version;
}

Status make_tables(Database& db) { return db.run(kTables); }

Status put_committed(Database& db, const Manifest& manifest) {
  FERMATA_ASSIGN_STATUS(
      Statement statement,
      db.prepare("INSERT OR REPLACE INTO sets(" + std::string(kColumns) +
                 ") VALUES(?1, ?2, ?3, ?4, 'committed', ?5, ?6, ?7, '', ?8, ?9)"));
  statement.bind(1, static_cast<int64_t>(manifest.crid.value));
  statement.bind(2, static_cast<int64_t>(manifest.parent.value));
  statement.bind(3, static_cast<int64_t>(manifest.job.job));
  statement.bind(4, static_cast<int64_t>(manifest.job.step));
  statement.bind(5, manifest.user);
  statement.bind(6, fmt::format("{}", fmt::join(manifest.command, " ")));
  statement.bind(7, manifest.time);
  statement.bind(8, static_cast<int64_t>(manifest.bytes()));
  statement.bind(9, manifest.stand_still_ms);
  return statement.run();
}

Status raise_counter(Database& db, const char* name, uint64_t value) {
  FERMATA_ASSIGN_STATUS(Statement statement,
                        db.prepare("UPDATE counters SET value = max(value, ?2) WHERE name = ?1"));
  statement.bind(1, name);
  statement.bind(2, static_cast<int64_t>(value));
  return statement.run();
}

struct Ledger::State {
  Database db;
};

Ledger::Ledger(std::unique_ptr<State> state) : state_(std::move(state)) {}
Ledger::Ledger(Ledger&&) noexcept = default;
Ledger& Ledger::operator=(Ledger&&) noexcept = default;
Ledger::~Ledger() = default;

Result<Ledger> Ledger::open(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / kLedgerFile;
  if (!present(file)) {
    FERMATA_ASSIGN(const bool sets, has_sets(dir));
    if (sets) return lost(file);
    return failure(Code::kNotFound, fmt::format("there are no checkpoints in {}", dir.native()));
  }
  FERMATA_ASSIGN(Database db, Database::open(file, Database::Mode::kExisting));
  FERMATA_ASSIGN(const int64_t version, ledger_version(db));
  if (version == 0) return lost(file);
  return Ledger(std::make_unique<State>(State{std::move(db)}));
}

Result<Ledger> Ledger::open_or_create(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / kLedgerFile;
  FERMATA_TRY_RESULT(make_directories(dir, 0700));
  if (!present(file)) {
    FERMATA_ASSIGN(const bool sets, has_sets(dir));
    if (sets) return lost(file);
  }
  FERMATA_ASSIGN(Database db, Database::open(file, Database::Mode::kCreate));
  FERMATA_ASSIGN(const int64_t version, ledger_version(db));
  if (version == 0) {
    FERMATA_ASSIGN(Transaction transaction, Transaction::begin(db));
    FERMATA_ASSIGN(const int64_t now, ledger_version(db));  // somebody else may have been first
    if (now == 0) {
      FERMATA_ASSIGN(const bool sets, has_sets(dir));
      if (sets) return lost(file);
      FERMATA_TRY_RESULT(make_tables(db));
    }
    FERMATA_TRY_RESULT(transaction.commit());
  }
  return Ledger(std::make_unique<State>(State{std::move(db)}));
}

Result<Crid> Ledger::next_crid() {
  FERMATA_ASSIGN(Statement next,
                 state_->db.prepare("SELECT value + 1 FROM counters WHERE name='crid'"));
  FERMATA_ASSIGN(const bool row, next.step());
  const Crid crid{row ? static_cast<uint64_t>(next.integer(0)) : 0};
  if (crid.value == 0 || crid.value > kMaxCrid) {
    return failure(Code::kDamaged,
                   "the ledger has no usable counter of CRIDs: fermata ls --rebuild mends it");
  }
  return crid;
}

Result<Crid> Ledger::allot_crid(JobStep job, std::string_view user, std::string_view command,
                                Crid parent) {
  FERMATA_ASSIGN(Transaction transaction, Transaction::begin(state_->db));
  FERMATA_ASSIGN(const Crid crid, next_crid());
  FERMATA_TRY_RESULT(begin_attempt(crid, job, user, command, parent));
  FAULT_POINT("ledger.allot");
  FERMATA_TRY_RESULT(transaction.commit());
  return crid;
}

Status Ledger::claim_crid(Crid crid, JobStep job, std::string_view user, std::string_view command,
                          Crid parent) {
  FERMATA_ASSIGN_STATUS(Transaction transaction, Transaction::begin(state_->db));
  FERMATA_ASSIGN_STATUS(const Crid next, next_crid());
  if (crid < next || crid.value > kMaxCrid) {
    return {Code::kConflict, fmt::format("CRID {} was given already", crid.value)};
  }
  FERMATA_TRY(begin_attempt(crid, job, user, command, parent));
  FAULT_POINT("ledger.allot");
  return transaction.commit();
}

Status Ledger::begin_attempt(Crid crid, JobStep job, std::string_view user,
                             std::string_view command, Crid parent) {
  FERMATA_TRY(raise_counter(state_->db, "crid", crid.value));
  FERMATA_ASSIGN_STATUS(Statement insert,
                        state_->db.prepare("INSERT INTO sets(" + std::string(kColumns) +
                                           ") VALUES(?1, ?2, ?3, ?4, 'attempt', ?5, ?6, ?7, '', "
                                           "0, 0)"));
  insert.bind(1, static_cast<int64_t>(crid.value));
  insert.bind(2, static_cast<int64_t>(parent.value));
  insert.bind(3, static_cast<int64_t>(job.job));
  insert.bind(4, static_cast<int64_t>(job.step));
  insert.bind(5, user);
  insert.bind(6, command);
  insert.bind(7, utc_now());
  return insert.run();
}

Result<uint64_t> Ledger::allot_job(uint64_t minimum) {
  Database& db = state_->db;
  FERMATA_ASSIGN(Transaction transaction, Transaction::begin(db));
  uint64_t job = 0;
  {
    FERMATA_ASSIGN(Statement next,
                   db.prepare("SELECT max(value, (SELECT coalesce(max(job), 0) FROM sets)) + 1 "
                              "FROM counters WHERE name='job'"));
    FERMATA_ASSIGN(const bool row, next.step());
    if (row) job = std::max(minimum, static_cast<uint64_t>(next.integer(0)));
  }
  if (job == 0 || job > kMaxCrid) {
    return failure(Code::kDamaged,
                   "the ledger has no usable counter of jobs: fermata ls --rebuild mends it");
  }
  FERMATA_TRY_RESULT(raise_counter(db, "job", job));
  FERMATA_TRY_RESULT(transaction.commit());
  return job;
}

Status Ledger::commit(const Manifest& manifest) {
  FAULT_POINT("ledger.commit");
  return put_committed(state_->db, manifest);
}

Status Ledger::abort(Crid crid, std::string_view reason) {
  FERMATA_ASSIGN_STATUS(
      Statement update,
      state_->db.prepare("UPDATE sets SET state='aborted', reason=?2 WHERE crid=?1 AND "
                         "state='attempt'"));
  update.bind(1, static_cast<int64_t>(crid.value));
  update.bind(2, reason);
  FERMATA_TRY(update.run());
  if (state_->db.changes() == 0) {
    return {Code::kNotFound, fmt::format("CRID {} is not of an attempt that runs", crid.value)};
  }
  return Status::ok();
}

Status Ledger::mark_deleted(Crid crid) {
  FERMATA_ASSIGN_STATUS(Statement update,
                        state_->db.prepare("UPDATE sets SET state='deleted' WHERE crid=?1"));
  update.bind(1, static_cast<int64_t>(crid.value));
  FERMATA_TRY(update.run());
  if (state_->db.changes() == 0) {
    return {Code::kNotFound, fmt::format("there is no set with CRID {}", crid.value)};
  }
  return Status::ok();
}

Result<std::vector<LedgerSet>> Ledger::sets(std::optional<JobStep> job) {
  return select(job ? "job=?1 AND step=?2" : "1", job.value_or(JobStep{}));
}

Result<std::vector<LedgerSet>> Ledger::attempts(JobStep job) {
  return select("job=?1 AND step=?2 AND state='attempt'", job);
}

Result<std::vector<LedgerSet>> Ledger::select(std::string_view condition, JobStep job) {
  FERMATA_ASSIGN(Statement query,
                 state_->db.prepare(fmt::format("SELECT {} FROM sets WHERE {} ORDER BY crid",
                                                kColumns, condition)));
  query.bind(1, static_cast<int64_t>(job.job));
  query.bind(2, static_cast<int64_t>(job.step));
  std::vector<LedgerSet> sets;
  for (;;) {
    FERMATA_ASSIGN(const bool row, query.step());
    if (!row) return sets;
    FERMATA_ASSIGN(LedgerSet set, row_of(query));
    sets.push_back(std::move(set));
  }
}

Result<LedgerSet> Ledger::find(Crid crid) {
  FERMATA_ASSIGN(Statement query, state_->db.prepare("SELECT " + std::string(kColumns) +
                                                     " FROM sets WHERE crid=?1"));
  query.bind(1, static_cast<int64_t>(crid.value));
  FERMATA_ASSIGN(const bool row, query.step());
  if (!row || crid.value > kMaxCrid) {
    return failure(Code::kNotFound,
                   fmt::format("there is no set with CRID {} (fermata ls shows all)", crid.value));
  }
  return row_of(query);
}

Result<LedgerSet> Ledger::latest_committed(std::optional<JobStep> job) {
  FERMATA_ASSIGN(Statement query,
                 state_->db.prepare("SELECT " + std::string(kColumns) +
                                    " FROM sets WHERE state='committed' AND (?1 OR (job=?2 AND "
                                    "step=?3)) ORDER BY crid DESC LIMIT 1"));
  query.bind(1, static_cast<int64_t>(job ? 0 : 1));
  query.bind(2, static_cast<int64_t>(job.value_or(JobStep{}).job));
  query.bind(3, static_cast<int64_t>(job.value_or(JobStep{}).step));
  FERMATA_ASSIGN(const bool row, query.step());
  if (!row) {
    return failure(Code::kNotFound, job ? fmt::format("job {} has no committed set (fermata ls "
                                                      "shows all)",
                                                      to_string(*job))
                                        : std::string("there is no committed set here"));
  }
  return row_of(query);
}

}  // namespace fermata::storage
