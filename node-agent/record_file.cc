#include "node-agent/record_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <fstream>
#include <sstream>

#include "common/unique_fd.h"

namespace fermata::node_agent {

namespace fs = std::filesystem;

Status make_record_folder(const fs::path& path) {
  if (mkdir(path.c_str(), 0755) != 0) {
    if (errno == EEXIST) return {};
    return errno_status(errno, fmt::format("{}: cannot be created", path.string()));
  }
  const UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (folder && fchmod(folder.get(), 0755) == 0) return {};
  if (errno == ENOENT) return {};  // a collector was quicker: our caller will see
  return errno_status(errno, fmt::format("{}: its mode cannot be set", path.string()));
}

std::optional<std::string> trusted_record(const fs::path& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  const bool ours = status.st_uid == 0 || status.st_uid == geteuid();
  if (!ours || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) return std::nullopt;
  std::string text;
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
}

uint64_t process_start_time(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!in || !std::getline(in, text)) return 0;
  // The name in parentheses may hold spaces and parentheses itself: the fields begin after the last
  // one.
  const size_t end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos) return 0;
  std::istringstream fields(text.substr(end_of_name + 1));
  std::string field;
  for (int number = 3; number <= 22 && fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return 0;
    if (number == 22) {
      uint64_t value = 0;
      std::from_chars(field.data(), field.data() + field.size(), value);
      return value;
    }
  }
  return 0;
}

}  // namespace fermata::node_agent
