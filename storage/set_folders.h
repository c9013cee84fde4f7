// The folders of jobs and sets below a checkpoint folder, by their names alone.
#pragma once

#include <filesystem>
#include <vector>

#include "common/ids.h"
#include "common/status.h"

namespace fermata::storage {

struct SetFolder {
  JobStep job;
  Crid crid;
  std::filesystem::path path;
};

/// Every <job>.<step>/<crid>, committed or left over. A folder `dir` that is missing has none.
Result<std::vector<SetFolder>> set_folders(const std::filesystem::path& dir);
/// Whether there is one.
Result<bool> has_sets(const std::filesystem::path& dir);
/// The highest job number that a folder is named by; 0: none.
Result<uint64_t> highest_job(const std::filesystem::path& dir);

}  // namespace fermata::storage
