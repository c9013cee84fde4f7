#include "storage/sqlite_vfs.h"

#include <sqlite3.h>

#include <map>
#include <mutex>

namespace fermata::storage {
namespace {

/// The same operations, but for those that map: they came after version 1 of the table.
const sqlite3_io_methods* without_mappings(const sqlite3_io_methods* methods) {
  static std::mutex mutex;
  static std::map<const sqlite3_io_methods*, sqlite3_io_methods> tables;
  const std::lock_guard lock(mutex);
  const auto [table, added] = tables.try_emplace(methods, *methods);
  if (added) table->second.iVersion = 1;
  return &table->second;
}

int open_file(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  auto* system = static_cast<sqlite3_vfs*>(vfs->pAppData);
  const int code = system->xOpen(system, name, file, flags, out_flags);
  if (code == SQLITE_OK) file->pMethods = without_mappings(file->pMethods);
  return code;
}

sqlite3_vfs make_vfs() {
  sqlite3_vfs* system = sqlite3_vfs_find(nullptr);
  sqlite3_vfs vfs = *system;
  vfs.pNext = nullptr;
  vfs.zName = "fermata";
  vfs.pAppData = system;  // of SQLite's own, only xOpen looks at it (os_unix.c)
  vfs.xOpen = open_file;
  return vfs;
}

}  // namespace

const char* vfs_without_mappings() {
  static sqlite3_vfs vfs = make_vfs();
  // A failure to register it shows at the next opening, which finds no VFS of this name.
  [[maybe_unused]] static const int registered = sqlite3_vfs_register(&vfs, 0);
  return vfs.zName;
}

}  // namespace fermata::storage
