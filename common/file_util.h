// Small files, whole: read, and written so that they survive a crash. Any thread; files are opened
// with the calling thread's credentials (see FsCredentialScope). Failures name the path.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// The whole of a file. It is read to its end and not by its size, so files of /proc and /sys work
/// too.
Result<std::string> read_file(const std::filesystem::path& path);

/// Writes all of `bytes` to `fd`, through short writes and interruptions. `what` names the target
/// in a failure.
Status write_all(int fd, std::string_view bytes, std::string_view what);

/// Replaces `path` by a file with these contents: at any crash it is the old file or the new one.
/// Written beside it under a name of its own, fsync'ed, renamed, and the folder fsync'ed
/// (rename(2), fsync(2)).
Status write_file_durable(const std::filesystem::path& path, std::string_view contents,
                          mode_t mode = 0644);

/// Makes the folder and those above it that are missing, with `mode` less the umask, and makes each
/// durable. An existing folder is left as it is; kStorage where something in the way is no folder.
Status make_directories(const std::filesystem::path& path, mode_t mode = 0755);

/// flock(2), exclusive, waited for no longer than `patience`: who may read a file may lock it, and
/// must not stop us for ever. kBusy names `what`.
Status lock_within(int fd, std::chrono::milliseconds patience, std::string_view what);

/// Makes the names in a folder durable.
Status fsync_dir(const std::filesystem::path& path);

}  // namespace fermata
