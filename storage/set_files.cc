#include "storage/set_files.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/file_util.h"
#include "common/size_parse.h"
#include "storage/manifest.h"

namespace fermata::storage {
namespace {

/// As an image has it, also one that is being written.
bool is_image_name(std::string_view name) {
  constexpr std::string_view kBegin = "pod-";
  if (!name.starts_with(kBegin)) return false;
  name.remove_prefix(kBegin.size());
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  name.remove_prefix(digits);
  if (name.ends_with(".part")) name.remove_suffix(std::string_view(".part").size());
  return digits > 0 && (name == ".h5" || name == ".full.h5");
}

/// Removes what has a name as files of a set have, but for `kept`.
Status remove_files(const std::filesystem::path& set_dir, const std::set<std::string>& kept) {
  std::error_code error;
  std::error_code gone;
  // Collected first: removing while reading a folder may skip entries.
  std::vector<std::filesystem::path> ours;
  for (std::filesystem::directory_iterator at(set_dir, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().native();
    if ((is_image_name(name) || name.starts_with(std::string(kManifestFile) + ".part-") ||
         name.starts_with(std::string(".") + kManifestFile)) &&
        !kept.contains(name) &&
        at->symlink_status(gone).type() == std::filesystem::file_type::regular) {
      ours.push_back(at->path());
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return errno_status(Code::kStorage, error.value(), "cannot list " + set_dir.native());
  }
  for (const std::filesystem::path& path : ours) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return errno_status(Code::kStorage, errno, "cannot remove " + path.native());
    }
  }
  return Status::ok();
}

}  // namespace

std::filesystem::path job_folder(const std::filesystem::path& dir, JobStep job) {
  return dir / to_string(job);
}

std::filesystem::path set_folder(const std::filesystem::path& dir, JobStep job, Crid crid) {
  return job_folder(dir, job) / to_string(crid);
}

Result<std::filesystem::path> make_set_folder(const std::filesystem::path& dir, JobStep job,
                                              Crid crid) {
  const std::filesystem::path parent = job_folder(dir, job);
  std::filesystem::path folder = set_folder(dir, job, crid);
  FERMATA_TRY_RESULT(make_directories(parent, 0700));
  if (::mkdir(folder.c_str(), 0700) != 0) {
    const int err = errno;
    return Failure(errno_status(err == EEXIST ? Code::kConflict : Code::kStorage, err,
                                "cannot make folder " + folder.native()));
  }
  return folder;
}

Status remove_unnamed_files(const std::filesystem::path& set_dir, const Manifest& manifest) {
  std::set<std::string> kept{kManifestFile};
  for (const ManifestImage& image : manifest.images) kept.insert(image.file);
  return remove_files(set_dir, kept);
}

Status remove_part_files(const std::filesystem::path& set_dir) {
  std::error_code error;
  if (std::filesystem::exists(set_dir / kManifestFile, error)) {
    return {Code::kConflict, set_dir.native() + " holds a committed set: nothing was removed"};
  }
  FERMATA_TRY(remove_files(set_dir, {}));
  // Something of somebody else's in it: the folder stays, and that is no failure.
  if (::rmdir(set_dir.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT) {
    return errno_status(Code::kStorage, errno, "cannot remove folder " + set_dir.native());
  }
  return Status::ok();
}

Status check_free_room(const std::filesystem::path& dir, uint64_t needed) {
  struct statvfs room {};
  if (::statvfs(dir.c_str(), &room) != 0) {
    return errno_status(Code::kStorage, errno, "cannot use folder " + dir.native());
  }
  if ((room.f_flag & ST_RDONLY) != 0) {
    return {Code::kStorage, fmt::format("folder {} is on a read-only file system", dir.native())};
  }
  const uint64_t available = static_cast<uint64_t>(room.f_bavail) * room.f_frsize;
  if (available < needed) {
    return {Code::kStorage,
            fmt::format("folder {} has {} free, the set needs about {}: make room, or choose "
                        "another folder",
                        dir.native(), format_size(available), format_size(needed))};
  }
  return Status::ok();
}

}  // namespace fermata::storage
