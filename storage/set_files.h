// The folder of a set, and the files in it. Functions act as the calling thread
// (FsCredentialScope).
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/ids.h"
#include "common/status.h"

namespace fermata::storage {

struct Manifest;

/// Of the manifest, in the folder of its set.
inline constexpr const char* kManifestFile = "set.json";

/// <dir>/<job>.<step>
std::filesystem::path job_folder(const std::filesystem::path& dir, JobStep job);
/// <dir>/<job>.<step>/<crid>
std::filesystem::path set_folder(const std::filesystem::path& dir, JobStep job, Crid crid);
/// Makes the folder of a set (mode 0700), durable with its manifest, and those above it. kStorage:
/// it cannot be made; kConflict: this set's folder exists already.
Result<std::filesystem::path> make_set_folder(const std::filesystem::path& dir, JobStep job,
                                              Crid crid);

/// Files that somebody who was killed left in the folder of a committed set: what is named as files
/// of sets are, and is none of this one's. Nobody else may be at work there.
Status remove_unnamed_files(const std::filesystem::path& set_dir, const Manifest& manifest);

/// Deletes what an attempt that failed left in its folder, and the folder when nothing else is in
/// it. A committed set is left alone (kConflict).
Status remove_part_files(const std::filesystem::path& set_dir);

/// kStorage, with both figures, when the file system of `dir` has fewer than `needed` bytes for
/// this user.
Status check_free_room(const std::filesystem::path& dir, uint64_t needed);

}  // namespace fermata::storage
