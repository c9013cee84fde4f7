// One at a time works on a set that is committed already: compact makes its files anew, retention
// removes them, and neither while restarts read it. A set is locked alone: who reads one that
// builds on others locks these, too. Between the processes of one machine; not between those of
// several over NFS, whose clients keep flock(2) of a folder to themselves, and say nothing of it
// (nfs_dir_operations of Linux 6.1 has no flock). Acts as the calling thread (FsCredentialScope).
#pragma once

#include <filesystem>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::storage {

/// Held as long as it is open; who ends gives it back. kBusy: somebody else is at it, or reads it.
/// kNotFound: there is no such folder. kUnsupported: there are no locks here.
Result<UniqueFd> lock_set(const std::filesystem::path& folder);

/// For one of any number that read it. Waits a moment for who only looks. As above.
Result<UniqueFd> lock_set_to_read(const std::filesystem::path& folder);

}  // namespace fermata::storage
