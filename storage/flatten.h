// Makes a full set of one that builds on others, so that these are no longer needed for it. Acts as
// the calling thread (FsCredentialScope).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "common/compression.h"
#include "common/status.h"
#include "storage/manifest.h"

namespace fermata::storage {

/// Called with bytes written so far and all to write, of the image in work.
using FlattenProgress = std::function<void(uint64_t done, uint64_t total)>;

/// Writes full images beside those of the committed set in `folder` that are incremental, then its
/// manifest anew, which names them and takes effect at once, then removes the old ones. Killed at
/// any moment it leaves a set that is whole, the old or the new; what else it leaves goes with the
/// next call. Sets that build on this one go on doing so. Returns the manifest as it is now. kBusy:
/// somebody else is at it.
Result<Manifest> flatten_set(const std::filesystem::path& folder, unsigned threads,
                             Compression compression, const FlattenProgress& progress = nullptr);

}  // namespace fermata::storage
