#include "storage/set_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>

namespace fermata::storage {

Result<UniqueFd> lock_set(const std::filesystem::path& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, folder.native());
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) {
    return failure(Code::kBusy, fmt::format("{}: this set is being worked on", folder.native()));
  }
  const Status refused = errno_status(errno, "flock");
  return failure(Code::kUnsupported, fmt::format("{}: this set cannot be locked: {}",
                                                 folder.native(), refused.message()));
}

}  // namespace fermata::storage
