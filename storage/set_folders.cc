#include "storage/set_folders.h"

#include <algorithm>
#include <system_error>

namespace fermata::storage {
namespace {

Result<std::vector<std::filesystem::path>> entries_of(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> entries;
  std::error_code error;
  for (std::filesystem::directory_iterator at(dir, error), end; !error && at != end;
       at.increment(error)) {
    entries.push_back(at->path());
  }
  if (error && error != std::errc::no_such_file_or_directory &&
      error != std::errc::not_a_directory) {
    return errno_failure(error.value(), "cannot read folder " + dir.native());
  }
  return entries;
}

struct JobFolder {
  JobStep job;
  std::filesystem::path path;
};

Result<std::vector<JobFolder>> job_folders(const std::filesystem::path& dir) {
  FERMATA_ASSIGN(const auto entries, entries_of(dir));
  std::vector<JobFolder> folders;
  for (const std::filesystem::path& path : entries) {
    const std::string name = path.filename().native();
    const auto job = parse_job_step(name);
    if (job && to_string(*job) == name) folders.push_back({*job, path});
  }
  return folders;
}

}  // namespace

Result<std::vector<SetFolder>> set_folders(const std::filesystem::path& dir) {
  FERMATA_ASSIGN(const auto jobs, job_folders(dir));
  std::vector<SetFolder> folders;
  for (const JobFolder& job : jobs) {
    FERMATA_ASSIGN(const auto entries, entries_of(job.path));
    for (const std::filesystem::path& path : entries) {
      const std::string name = path.filename().native();
      const auto crid = parse_crid(name);
      if (crid && to_string(*crid) == name) folders.push_back({job.job, *crid, path});
    }
  }
  std::sort(folders.begin(), folders.end(),
            [](const SetFolder& a, const SetFolder& b) { return a.crid < b.crid; });
  return folders;
}

Result<bool> has_sets(const std::filesystem::path& dir) {
  FERMATA_ASSIGN(const auto folders, set_folders(dir));
  return !folders.empty();
}

Result<uint64_t> highest_job(const std::filesystem::path& dir) {
  FERMATA_ASSIGN(const auto jobs, job_folders(dir));
  uint64_t highest = 0;
  for (const JobFolder& job : jobs) highest = std::max(highest, job.job.job);
  return highest;
}

}  // namespace fermata::storage
