// One at a time works on a set that is committed already: compact makes its files anew, retention
// removes them, and neither while restarts read it. Between the processes of one machine, and of
// others where the file system has flock(2) for all. Acts as the calling thread
// (FsCredentialScope).
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
