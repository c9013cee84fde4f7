// Locks on files: flock(2), open-file-description and POSIX locks (fcntl_locking(2)), as the
// "lock:" lines of fdinfo show them. The first two belong to the open file description, the third
// to the process. Tracer's thread only.
#pragma once

#include <vector>

#include "common/status.h"
#include "node-agent/engine/file_kind.h"
#include "proto/files.pb.h"

namespace fermata::engine {

/// Locks held through the description or by the process of `probe`. Those waited for are not
/// listed: the wait is a system call that is made again. kCannotHold: a lease.
Result<std::vector<image::FileLock>> locks_of(const FileProbe& probe);

/// Takes a lock of the description open at our `fd` again. kConflict: somebody else has it.
Status relock(const image::FileLock& lock, int fd);
/// Has the process take a POSIX lock again through its descriptor `fd`.
Status relock_posix(const image::FileLock& lock, Remote& process, int fd);

}  // namespace fermata::engine
