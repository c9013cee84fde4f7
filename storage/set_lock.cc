#include "storage/set_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <thread>

namespace fermata::storage {
namespace {

// Retention takes it for the time of a look.
constexpr std::chrono::seconds kLook{1};
constexpr std::chrono::milliseconds kLookAgain{5};

Result<UniqueFd> lock(const std::filesystem::path& folder, int how) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, folder.native());
  if (::flock(fd.get(), how | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) {
    return failure(Code::kBusy, fmt::format("{}: this set is being worked on, or read by a restart",
                                            folder.native()));
  }
  const Status refused = errno_status(errno, "flock");
  return failure(Code::kUnsupported, fmt::format("{}: this set cannot be locked: {}",
                                                 folder.native(), refused.message()));
}

}  // namespace

Result<UniqueFd> lock_set(const std::filesystem::path& folder) { return lock(folder, LOCK_EX); }

Result<UniqueFd> lock_set_to_read(const std::filesystem::path& folder) {
  const auto until = std::chrono::steady_clock::now() + kLook;
  for (;;) {
    Result<UniqueFd> got = lock(folder, LOCK_SH);
    const bool busy = !got && got.error().code() == Code::kBusy;
    if (!busy || std::chrono::steady_clock::now() > until) return got;
    std::this_thread::sleep_for(kLookAgain);
  }
}

}  // namespace fermata::storage
