#include "storage/sqlite.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>

#include "common/unique_fd.h"
#include "storage/sqlite_vfs.h"

namespace fermata::storage {
namespace {

constexpr int kBusyMs = 10'000;

Status status_of(sqlite3* db) {
  const char* file = db == nullptr ? nullptr : sqlite3_db_filename(db, "main");
  const std::string name = file == nullptr ? "the ledger" : fmt::format("ledger {}", file);
  const std::string text = db == nullptr ? "out of memory" : sqlite3_errmsg(db);
  const int err = db == nullptr ? 0 : sqlite3_system_errno(db);
  switch (db == nullptr ? SQLITE_NOMEM : sqlite3_errcode(db) & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_ERROR:  // a table or column that is not there
    case SQLITE_MISMATCH:
      return {Code::kDamaged,
              fmt::format("{} is damaged ({}): fermata ls --rebuild makes it again from the sets",
                          name, text)};
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return {Code::kBusy,
              fmt::format("{} was held by another process for {} s", name, kBusyMs / 1000)};
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_FULL:
      return {Code::kStorage, fmt::format("{} cannot be used: {}", name, text), err};
    default:
      return {Code::kInternal, fmt::format("{}: {}", name, text), err};
  }
}

/// sqlite.org/fileformat2.html#file_format_version_numbers
bool wants_write_ahead_log(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::array<char, 2> versions{};
  return fd.valid() && ::pread(fd.get(), versions.data(), versions.size(), 18) == 2 &&
         (versions[0] == 2 || versions[1] == 2);
}

}  // namespace

void Statement::bind(int parameter, int64_t value) {
  sqlite3_bind_int64(statement_.get(), parameter, value);
}

void Statement::bind(int parameter, double value) {
  sqlite3_bind_double(statement_.get(), parameter, value);
}

void Statement::bind(int parameter, std::string_view value) {
  // A null pointer would be NULL, not an empty text.
  sqlite3_bind_text64(statement_.get(), parameter, value.empty() ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT, SQLITE_UTF8);
}

Result<bool> Statement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return Failure(status_of(sqlite3_db_handle(statement_.get())));
}

Status Statement::run() {
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const bool row, step());
  return Status::ok();
}

int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

double Statement::real(int column) const { return sqlite3_column_double(statement_.get(), column); }

std::string Statement::text(int column) const {
  const unsigned char* text = sqlite3_column_text(statement_.get(), column);
  if (text == nullptr) return {};
  return {reinterpret_cast<const char*>(text),
          static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

Result<Database> Database::open(const std::filesystem::path& path, Mode mode) {
  sqlite3* raw = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX |
                    (mode == Mode::kExisting ? 0 : SQLITE_OPEN_CREATE);
  const int code = sqlite3_open_v2(path.c_str(), &raw, flags,
                                   mode == Mode::kOwn ? nullptr : vfs_without_mappings());
  Database database;
  database.db_.reset(raw);
  if (code != SQLITE_OK) return Failure(status_of(raw));
  sqlite3_busy_timeout(raw, kBusyMs);
  // The file lies where its owner can write: no code of its schema is run.
  for (const int option : {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW,
                           SQLITE_DBCONFIG_TRUSTED_SCHEMA}) {
    sqlite3_db_config(raw, option, 0, nullptr);
  }
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  // A rollback journal: a write-ahead log needs memory shared by all users, which network file
  // systems do not have (sqlite.org/wal.html). EXTRA, not FULL: it also syncs the folder after the
  // journal is removed, without which a power failure brings the journal back and takes a CRID that
  // was given out back with it.
  if (Status set = database.run("PRAGMA journal_mode=DELETE"); !set) {
    if (wants_write_ahead_log(path)) {
      return failure(
          Code::kDamaged,
          fmt::format("ledger {} is damaged (it wants a write-ahead log, which no ledger "
                      "has): fermata ls --rebuild makes it again from the sets",
                      path.native()));
    }
    return Failure(std::move(set));
  }
  FERMATA_TRY_RESULT(database.run("PRAGMA synchronous=EXTRA"));
  FERMATA_TRY_RESULT(database.run("PRAGMA cell_size_check=ON"));
  FERMATA_TRY_RESULT(database.run("PRAGMA temp_store=MEMORY"));
  return database;
}

Result<Statement> Database::prepare(std::string_view sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(db_.get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr) !=
      SQLITE_OK) {
    return Failure(status_of(db_.get()));
  }
  Statement statement;
  statement.statement_.reset(raw);
  return statement;
}

Status Database::run(const char* sql) {
  if (sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
    return status_of(db_.get());
  }
  return Status::ok();
}

Result<Transaction> Transaction::begin(Database& db) {
  FERMATA_TRY_RESULT(db.run("BEGIN IMMEDIATE"));
  return Transaction(&db);
}

Transaction::~Transaction() {
  if (db_ == nullptr) return;
  // Nothing can be done about a rollback that fails: the journal rolls back at the next opening.
  [[maybe_unused]] const Status ignored = db_->run("ROLLBACK");
}

Status Transaction::commit() {
  FERMATA_TRY(db_->run("COMMIT"));
  db_ = nullptr;
  return Status::ok();
}

}  // namespace fermata::storage
