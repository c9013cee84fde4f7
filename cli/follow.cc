#include "cli/follow.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>

#include "common/file_util.h"

namespace fermata::cli {

void Follower::add(const std::string& file, off_t from) { files_.push_back({file, from, {}}); }

void Follower::pump() {
  std::array<char, 65536> buffer{};
  for (File& file : files_) {
    if (!file.fd) file.fd.reset(open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.fd) continue;
    while (true) {
      const ssize_t got = pread(file.fd.get(), buffer.data(), buffer.size(), file.at);
      if (got <= 0) break;
      file.at += got;
      // A reader of ours that went away does not concern the job.
      [[maybe_unused]] const Status written =
          write_all(STDOUT_FILENO, {buffer.data(), static_cast<size_t>(got)}, "stdout");
    }
  }
}

off_t size_of(const std::string& file) {
  struct stat status {};
  return stat(file.c_str(), &status) == 0 ? status.st_size : 0;
}

}  // namespace fermata::cli
