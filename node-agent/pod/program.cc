#include "node-agent/pod/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <string_view>

namespace fermata::pod {
namespace {

// What execvp(3) takes when PATH is not set.
constexpr std::string_view kDefaultPath = "/bin:/usr/bin";

std::string_view path_of(const std::vector<std::string>& environment) {
  constexpr std::string_view kName = "PATH=";
  std::string_view found = kDefaultPath;
  for (const std::string& entry : environment) {
    if (entry.starts_with(kName)) found = std::string_view(entry).substr(kName.size());
  }
  return found;
}

/// 0 when `path` is a file that the thread may execute; else the errno that execve(2) would give.
/// `seen`: there is something at that path.
int why_not_executable(const std::string& path, bool& seen) {
  struct stat info {};
  seen = stat(path.c_str(), &info) == 0;
  if (!seen) return errno;
  if (!S_ISREG(info.st_mode)) return EACCES;
  // AT_EACCESS: the file-system user of the thread decides, not its real user (access(2)).
  return faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

std::string absolute(const std::string& path, const std::string& working_directory) {
  return path.starts_with('/') ? path : working_directory + "/" + path;
}

Failure refused(const std::string& command, int err) {
  const bool missing = err == ENOENT || err == ENOTDIR;
  return failure(missing ? Code::kNotFound : Code::kPermission,
                 fmt::format("{}: {}", command, strerror(err)), err);
}

}  // namespace

Result<std::string> find_program(const std::string& command,
                                 const std::vector<std::string>& environment,
                                 const std::string& working_directory, const Credentials& user) {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(user));
  bool seen = false;
  if (command.find('/') != std::string::npos) {
    const int err = why_not_executable(absolute(command, working_directory), seen);
    if (err != 0) return refused(command, err);
    return command;
  }
  int denied = 0;
  std::string_view rest = path_of(environment);
  for (bool more = !command.empty(); more;) {
    const size_t colon = rest.find(':');
    std::string folder(rest.substr(0, colon));
    more = colon != std::string_view::npos;
    if (more) rest.remove_prefix(colon + 1);
    if (folder.empty()) folder = ".";
    std::string candidate = std::move(folder);
    candidate.append("/").append(command);
    const int err = why_not_executable(absolute(candidate, working_directory), seen);
    if (err == 0) return candidate;
    if (seen) denied = err;
  }
  if (denied != 0) return refused(command, denied);
  return failure(Code::kNotFound, fmt::format("{}: command not found", command));
}

}  // namespace fermata::pod
