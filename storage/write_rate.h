// How fast a folder takes bytes: a short trial, for the estimate of `fermata able`. Any thread;
// acts with the calling thread's file-system credentials.
#pragma once

#include <filesystem>

#include "common/status.h"

namespace fermata::storage {

/// Writes 32 MiB to an unnamed file on the file system of `folder` (or of the nearest folder above
/// that exists) and waits until they are durable. Bytes a second.
Result<double> measure_write_rate(const std::filesystem::path& folder);

}  // namespace fermata::storage
