// SQLite behind Status: a connection and a statement. One thread at a time.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata::storage {

class Statement {
 public:
  /// Parameters are numbered from 1; columns from 0.
  void bind(int parameter, int64_t value);
  void bind(int parameter, double value);
  void bind(int parameter, std::string_view value);

  /// True: there is a row. False: done.
  Result<bool> step();
  /// For statements that return no rows.
  Status run();

  int64_t integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Database {
 public:
  /// kExisting and kCreate are for files that users can write: no code in them is run, and nothing
  /// of them is mapped (sqlite_vfs.h). kOwn is for one that nobody else can, made where it is
  /// missing.
  enum class Mode { kExisting, kCreate, kOwn };
  /// Opens, with settings for a file that must not lose what was committed.
  static Result<Database> open(const std::filesystem::path& path, Mode mode);

  Result<Statement> prepare(std::string_view sql);
  Status run(const char* sql);
  /// Rows that the last statement changed.
  int changes() const { return sqlite3_changes(db_.get()); }

 private:
  struct Close {
    void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
  };
  std::unique_ptr<sqlite3, Close> db_;
};

/// BEGIN IMMEDIATE; rolled back when it is destroyed before commit().
class Transaction {
 public:
  static Result<Transaction> begin(Database& db);
  Transaction(Transaction&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();

  Status commit();

 private:
  explicit Transaction(Database* db) : db_(db) {}
  Database* db_;
};

}  // namespace fermata::storage
