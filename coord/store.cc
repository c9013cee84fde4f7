#include "coord/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <ctime>

#include "common/fault_point.h"
#include "common/file_util.h"
#include "common/log.h"
#include "storage/sqlite.h"

namespace fermata::coord {
namespace {

using storage::Database;
using storage::Statement;
using storage::Transaction;

constexpr int64_t kVersion = 1;
constexpr int64_t kRemembered = 30LL * 24 * 3600;  // seconds
/// What a folder may be ahead of us, say after our counters were lost. It would take as many
/// requests again to use up all numbers.
constexpr uint64_t kLongestLeap = 1ULL << 32;

constexpr const char* kTables = R"(
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES('crid', 0), ('job', 0);
CREATE TABLE starts(job INTEGER NOT NULL, step INTEGER NOT NULL, start INTEGER NOT NULL,
  PRIMARY KEY(job, step)) WITHOUT ROWID;
CREATE TABLE jobs(job INTEGER NOT NULL, step INTEGER NOT NULL, ended INTEGER NOT NULL,
  record BLOB NOT NULL, PRIMARY KEY(job, step));
PRAGMA user_version=1;
)";

/// Added later: a store without them is as good.
constexpr const char* kLaterTables =
    "CREATE TABLE IF NOT EXISTS drained(node TEXT PRIMARY KEY, reason TEXT NOT NULL, "
    "by TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID";

/// Not a checkpoint folder's: the advice for those does not help here.
Status naming(const Status& status, const std::filesystem::path& file) {
  if (status.code() != Code::kDamaged) return status;
  return {Code::kDamaged,
          fmt::format("{} is damaged: end the coordinator, move the file away and start it again; "
                      "jobs that run then do so untended",
                      file.native())};
}

template <typename T>
Result<T> naming(Result<T> result, const std::filesystem::path& file) {
  if (result) return result;
  return Failure(naming(result.error(), file));
}

Status prepare(Database& db) {
  // Local disk, one process: a write-ahead log (sqlite.org/wal.html). FULL syncs it at each commit.
  FERMATA_TRY(db.run("PRAGMA journal_mode=WAL"));
  FERMATA_TRY(db.run("PRAGMA synchronous=FULL"));
  FERMATA_ASSIGN_STATUS(Transaction transaction, Transaction::begin(db));
  int64_t version = 0;
  {
    FERMATA_ASSIGN_STATUS(Statement query, db.prepare("PRAGMA user_version"));
    FERMATA_ASSIGN_STATUS(const bool row, query.step());
    if (row) version = query.integer(0);
  }
  if (version > kVersion) {
    return {Code::kUnsupported, "the coordinator's store is of a newer version: use that one"};
  }
  if (version == 0) FERMATA_TRY(db.run(kTables));
  FERMATA_TRY(db.run(kLaterTables));
  {
    FERMATA_ASSIGN_STATUS(Statement forget,
                          db.prepare("DELETE FROM jobs WHERE ended != 0 AND ended < ?1"));
    forget.bind(1, static_cast<int64_t>(std::time(nullptr)) - kRemembered);
    FERMATA_TRY(forget.run());
  }
  return transaction.commit();
}

}  // namespace

Store::Store(UniqueFd lock, std::filesystem::path file, std::unique_ptr<Database> db)
    : lock_(std::move(lock)), file_(std::move(file)), db_(std::move(db)) {}
Store::~Store() = default;

Result<std::unique_ptr<Store>> Store::open(const std::filesystem::path& state_dir) {
  FERMATA_TRY_RESULT(make_directories(state_dir, 0700));
  const std::filesystem::path lock_file = state_dir / "coordinator.lock";
  UniqueFd lock(::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return errno_failure(errno, "cannot open " + lock_file.native());
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return failure(Code::kBusy, fmt::format("{}: another coordinator runs with this folder",
                                            state_dir.native()));
  }
  const std::filesystem::path file = state_dir / "coordinator.sqlite";
  Result<Database> db = Database::open(file, Database::Mode::kOwn);
  if (!db) return Failure(naming(db.error(), file));
  FERMATA_TRY_RESULT(naming(prepare(*db), file));
  return std::unique_ptr<Store>(
      new Store(std::move(lock), file, std::make_unique<Database>(*std::move(db))));
}

Result<uint64_t> Store::allot(const char* counter, uint64_t at_least) {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN(Transaction transaction, Transaction::begin(*db_));
  FERMATA_ASSIGN(const uint64_t last, last_allotted(counter));
  const uint64_t number = std::max(last + 1, at_least);
  if (number - last > kLongestLeap) {
    return failure(Code::kConflict,
                   fmt::format("the folder has given out {} numbers up to {}, the cluster only up "
                               "to {}: its ledger is damaged; fermata ls --rebuild mends it",
                               counter, number - 1, last));
  }
  FERMATA_TRY_RESULT(set_counter(counter, number));
  FAULT_POINT("store.allot");
  FERMATA_TRY_RESULT(transaction.commit());
  return number;
}

Result<uint64_t> Store::last_allotted(const char* counter) {
  FERMATA_ASSIGN(Statement query, db_->prepare("SELECT value FROM counters WHERE name = ?1"));
  query.bind(1, std::string_view(counter));
  FERMATA_ASSIGN(const bool row, query.step());
  const int64_t value = row ? query.integer(0) : -1;
  if (value < 0 || value > INT64_MAX / 2) {
    return failure(Code::kDamaged,
                   fmt::format("the coordinator's counter \"{}\" is no use: {}", counter, value));
  }
  return static_cast<uint64_t>(value);
}

Status Store::set_counter(const char* counter, uint64_t value) {
  FERMATA_ASSIGN_STATUS(Statement update,
                        db_->prepare("UPDATE counters SET value = ?2 WHERE name = ?1"));
  update.bind(1, std::string_view(counter));
  update.bind(2, static_cast<int64_t>(value));
  return update.run();
}

Status Store::raise_job(uint64_t number) { return naming(raise(number), file_); }

Result<uint64_t> Store::last_job() {
  const std::lock_guard guard(mutex_);
  return naming(last_allotted("job"), file_);
}

Status Store::raise(uint64_t number) {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN_STATUS(Transaction transaction, Transaction::begin(*db_));
  FERMATA_ASSIGN_STATUS(const uint64_t last, last_allotted("job"));
  if (number <= last || number - last > kLongestLeap) return Status::ok();
  FERMATA_TRY(set_counter("job", number));
  return transaction.commit();
}

Result<Crid> Store::allot_crid(Crid at_least) {
  FERMATA_ASSIGN(const uint64_t number, naming(allot("crid", at_least.value), file_));
  return Crid{number};
}

Result<uint64_t> Store::allot_job(uint64_t at_least) {
  return naming(allot("job", at_least), file_);
}

Result<uint32_t> Store::allot_start(JobStep step) { return naming(next_start(step), file_); }

Result<uint32_t> Store::next_start(JobStep step) {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN(Statement next,
                 db_->prepare("INSERT INTO starts VALUES(?1, ?2, 1) ON CONFLICT(job, step) DO "
                              "UPDATE SET start = start + 1 RETURNING start"));
  next.bind(1, static_cast<int64_t>(step.job));
  next.bind(2, static_cast<int64_t>(step.step));
  FERMATA_ASSIGN(const bool row, next.step());
  if (!row) return failure(Code::kInternal, "the coordinator's store numbered no start");
  const auto start = static_cast<uint32_t>(next.integer(0));
  FERMATA_ASSIGN([[maybe_unused]] const bool more, next.step());  // commits
  return start;
}

Status Store::put(const stored::Job& job) { return naming(write(job), file_); }

Status Store::write(const stored::Job& job) {
  const std::lock_guard guard(mutex_);
  FAULT_POINT("store.put");
  FERMATA_ASSIGN_STATUS(Statement statement,
                        db_->prepare("INSERT OR REPLACE INTO jobs VALUES(?1, ?2, ?3, ?4)"));
  statement.bind(1, static_cast<int64_t>(job.job()));
  statement.bind(2, static_cast<int64_t>(job.step()));
  statement.bind(3, job.state() == stored::Job::ENDED ? job.ended() : 0);
  statement.bind(4, std::string_view(job.SerializeAsString()));
  return statement.run();
}

Status Store::drain(const DrainedNode& node) {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN_STATUS(Statement statement,
                        db_->prepare("INSERT OR REPLACE INTO drained VALUES(?1, ?2, ?3, ?4)"));
  statement.bind(1, std::string_view(node.name));
  statement.bind(2, std::string_view(node.reason));
  statement.bind(3, std::string_view(node.by));
  statement.bind(4, node.since);
  return statement.run();
}

Status Store::undrain(const std::string& node) {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN_STATUS(Statement statement, db_->prepare("DELETE FROM drained WHERE node = ?1"));
  statement.bind(1, std::string_view(node));
  return statement.run();
}

Result<std::vector<DrainedNode>> Store::drained() {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN(Statement query, db_->prepare("SELECT node, reason, by, since FROM drained"));
  std::vector<DrainedNode> nodes;
  for (;;) {
    FERMATA_ASSIGN(const bool row, query.step());
    if (!row) return nodes;
    nodes.push_back({query.text(0), query.text(1), query.text(2), query.integer(3)});
  }
}

Result<std::vector<stored::Job>> Store::jobs() { return naming(read_jobs(), file_); }

Result<std::vector<stored::Job>> Store::read_jobs() {
  const std::lock_guard guard(mutex_);
  FERMATA_ASSIGN(Statement query, db_->prepare("SELECT record FROM jobs ORDER BY job, step"));
  std::vector<stored::Job> jobs;
  for (;;) {
    FERMATA_ASSIGN(const bool row, query.step());
    if (!row) return jobs;
    stored::Job job;
    if (job.ParseFromString(query.text(0))) {
      jobs.push_back(std::move(job));
    } else {
      log_error("the coordinator's store has a job that cannot be read: it is left alone");
    }
  }
}

}  // namespace fermata::coord
