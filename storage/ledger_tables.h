// The tables of a ledger, shared by the ledger and its rebuild.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/status.h"
#include "storage/ledger.h"
#include "storage/sqlite.h"

namespace fermata::storage {

inline constexpr const char* kLedgerFile = "ledger.sqlite";

/// Beyond it there is no CRID and no job: well below the end of SQLite's integers, where it would
/// go on with rounded numbers.
inline constexpr uint64_t kMaxCrid = 1ULL << 62;

/// 0: no tables yet. kUnsupported: of a newer version.
Result<int64_t> ledger_version(Database& db);
/// In a transaction, where ledger_version() is 0. The counters start at 0.
Status make_tables(Database& db);
/// Adds or replaces the row of a committed set.
Status put_committed(Database& db, const Manifest& manifest);
/// Raises the counter ("crid", "job") to `value` where it is lower.
Status raise_counter(Database& db, const char* name, uint64_t value);

}  // namespace fermata::storage
