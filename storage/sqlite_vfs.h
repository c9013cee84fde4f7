// SQLite's access to files without its shared memory. Any thread.
#pragma once

namespace fermata::storage {

/// Name of a VFS (sqlite.org/vfs.html) that is the system's, but maps no file: what a user cuts
/// short that is mapped here would end this process with SIGBUS. A write-ahead log cannot be used
/// with it: SQLite says SQLITE_CANTOPEN of a file that wants one.
const char* vfs_without_mappings();

}  // namespace fermata::storage
