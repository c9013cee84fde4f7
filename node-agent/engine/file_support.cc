#include "node-agent/engine/file_support.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <fstream>
#include <iterator>

#include "common/try_again.h"

namespace fermata::engine {
namespace {

std::string program_of(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(in, name);
  return name.empty() ? "?" : name;
}

}  // namespace

std::string FileProbe::describe() const {
  return fmt::format("process {} ({}), fd {} ({})", vpid, program_of(pid), fd, link);
}

std::optional<std::string> fdinfo_field(std::string_view fdinfo, std::string_view key) {
  size_t at = 0;
  while (at < fdinfo.size()) {
    const size_t end = std::min(fdinfo.find('\n', at), fdinfo.size());
    std::string_view line = fdinfo.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    line.remove_prefix(key.size() + 1);
    const size_t first = line.find_first_not_of(" \t");
    if (first == std::string_view::npos) return std::string();
    return std::string(line.substr(first, line.find_last_not_of(" \t") - first + 1));
  }
  return std::nullopt;
}

Result<uint64_t> fdinfo_number(const FileProbe& probe, std::string_view key, int base) {
  const std::optional<std::string> text = fdinfo_field(probe.fdinfo, key);
  uint64_t value = 0;
  if (text) {
    const auto [end, error] =
        std::from_chars(text->data(), text->data() + text->size(), value, base);
    if (error == std::errc()) return value;
  }
  return failure(Code::kUnsupported, fmt::format("{}: this kernel's fdinfo has no number in '{}'",
                                                 probe.describe(), key));
}

Result<std::string> own_fdinfo(int fd) {
  std::ifstream in(fmt::format("/proc/self/fdinfo/{}", fd));
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (text.empty()) {
    return failure(Code::kInternal, fmt::format("/proc/self/fdinfo/{} cannot be read", fd));
  }
  return text;
}

Status refuse(const FileProbe& probe, std::string_view why) {
  return {Code::kCannotHold, fmt::format("{}: {}", probe.describe(), why)};
}

Status refuse_now(const FileProbe& probe, std::string_view why) {
  return {Code::kBusy, fmt::format("{}: {}{}", probe.describe(), why, kTryAgain)};
}

std::string holder_of(const image::File& file) {
  return fmt::format("process {}, fd {}", file.creator(), file.creator_fd());
}

std::string holder_of(const image::File& file, CaptureContext& context) {
  const Result<Remote*> remote = context.remote(file.creator());
  if (!remote) return holder_of(file);
  return fmt::format("process {} ({}), fd {}", file.creator(), program_of((*remote)->pid()),
                     file.creator_fd());
}

Status set_status_flags(int fd, uint32_t flags) {
  constexpr uint32_t kChangeable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  const int now = ::fcntl(fd, F_GETFL);
  if (now < 0) return errno_status(errno, fmt::format("reading the flags of fd {}", fd));
  const uint32_t wanted = (static_cast<uint32_t>(now) & ~kChangeable) | (flags & kChangeable);
  if (wanted == static_cast<uint32_t>(now)) return Status::ok();
  if (::fcntl(fd, F_SETFL, wanted) < 0) {
    return errno_status(errno, fmt::format("setting flags {:#o} on a rebuilt file", wanted));
  }
  return Status::ok();
}

Result<UniqueFd> reopen(int fd, int flags) {
  UniqueFd again(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), flags | O_CLOEXEC));
  if (!again) return errno_failure(errno, fmt::format("opening descriptor {} again", fd));
  return again;
}

}  // namespace fermata::engine
