#include "node-agent/engine/proc_status.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <climits>
#include <memory>
#include <string_view>

#include "common/file_util.h"

namespace fermata::engine {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

template <typename T>
std::vector<T> numbers(std::string_view text, int base = 10) {
  std::vector<T> found;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    T value{};
    const auto [next, error] = std::from_chars(at, end, value, base);
    if (error == std::errc()) {
      found.push_back(value);
      at = next;
    } else {
      ++at;
    }
  }
  return found;
}

template <typename T>
T first_number(std::string_view text, int base = 10) {
  const std::vector<T> all = numbers<T>(text, base);
  return all.empty() ? T{} : all.front();
}

int innermost(std::string_view text) {
  const std::vector<int> all = numbers<int>(text);
  return all.empty() ? 0 : all.back();
}

template <size_t N>
void fill(std::array<uint32_t, N>& out, std::string_view text) {
  const std::vector<uint32_t> all = numbers<uint32_t>(text);
  for (size_t i = 0; i < N && i < all.size(); ++i) out[i] = all[i];
}

void take_line(ProcStatus& status, std::string_view key, std::string_view value) {
  if (key == "Name") status.name = value;
  if (key == "State" && !value.empty()) status.state = value.front();
  if (key == "NSpid") {
    status.vtid = innermost(value);
    status.namespace_depth = static_cast<int>(numbers<int>(value).size());
  }
  if (key == "NStgid") status.vpid = innermost(value);
  if (key == "NSpgid") status.vgroup = innermost(value);
  if (key == "NSsid") status.vsession = innermost(value);
  if (key == "Uid") fill(status.uids, value);
  if (key == "Gid") fill(status.gids, value);
  if (key == "Groups") status.groups = numbers<uint32_t>(value);
  if (key == "Umask") status.umask = first_number<uint32_t>(value, 8);
  if (key == "SigPnd") status.pending_thread = first_number<uint64_t>(value, 16);
  if (key == "ShdPnd") status.pending_process = first_number<uint64_t>(value, 16);
  if (key == "SigIgn") status.ignored = first_number<uint64_t>(value, 16);
  if (key == "SigCgt") status.caught = first_number<uint64_t>(value, 16);
  if (key == "CapInh") status.cap_inheritable = first_number<uint64_t>(value, 16);
  if (key == "CapPrm") status.cap_permitted = first_number<uint64_t>(value, 16);
  if (key == "CapEff") status.cap_effective = first_number<uint64_t>(value, 16);
  if (key == "CapBnd") status.cap_bounding = first_number<uint64_t>(value, 16);
  if (key == "CapAmb") status.cap_ambient = first_number<uint64_t>(value, 16);
  if (key == "NoNewPrivs") status.no_new_privileges = first_number<int>(value) != 0;
  if (key == "Seccomp") status.seccomp = first_number<int>(value);
}

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

Result<ProcStatus> read_status(pid_t pid, pid_t tid) {
  FERMATA_ASSIGN(const std::string text,
                 read_file(fmt::format("/proc/{}/task/{}/status", pid, tid)));
  ProcStatus status;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos) {
      take_line(status, line.substr(0, colon), trim(line.substr(colon + 1)));
    }
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return status;
}

Result<ProcStat> ProcStat::read(pid_t pid) {
  FERMATA_ASSIGN(const std::string text, read_file(fmt::format("/proc/{}/stat", pid)));
  // The name in the second field may hold spaces and parentheses: what counts is the last one.
  const size_t close = text.rfind(')');
  if (close == std::string::npos || close + 2 >= text.size()) {
    return failure(Code::kInternal, fmt::format("/proc/{}/stat cannot be read", pid));
  }
  ProcStat stat;
  stat.state_ = text[close + 2];
  stat.fields_ = {0, 0, 0};
  std::string_view rest = std::string_view(text).substr(close + 3);
  const char* at = rest.data();
  const char* end = at + rest.size();
  while (at < end) {
    if (*at == ' ' || *at == '\n') {
      ++at;
      continue;
    }
    uint64_t value = 0;
    int64_t negative = 0;
    if (*at == '-') {
      const auto parsed = std::from_chars(at, end, negative);
      value = static_cast<uint64_t>(negative);
      at = parsed.ptr;
    } else {
      at = std::from_chars(at, end, value).ptr;
    }
    stat.fields_.push_back(value);
    while (at < end && *at != ' ') ++at;
  }
  return stat;
}

uint64_t ProcStat::field(size_t number) const {
  const size_t index = number - 1;
  return index < fields_.size() ? fields_[index] : 0;
}

Result<std::vector<pid_t>> threads_of(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/task", pid);
  const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir(path.c_str()));
  if (!directory) return errno_failure(errno, fmt::format("listing {}", path));
  std::vector<pid_t> tids;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    pid_t tid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), tid).ec == std::errc()) {
      tids.push_back(tid);
    }
  }
  return tids;
}

Result<std::vector<pid_t>> children_of(pid_t pid) {
  std::vector<pid_t> children;
  FERMATA_ASSIGN(const std::vector<pid_t> tids, threads_of(pid));
  for (const pid_t tid : tids) {
    const Result<std::string> text = read_file(fmt::format("/proc/{}/task/{}/children", pid, tid));
    if (!text) continue;  // the thread ended between the two reads
    for (const pid_t child : numbers<pid_t>(*text)) children.push_back(child);
  }
  return children;
}

Result<std::string> read_link(const std::string& path) {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t length = ::readlink(path.c_str(), buffer.data(), buffer.size());
  if (length < 0) return errno_failure(errno, fmt::format("reading the link {}", path));
  return std::string(buffer.data(), static_cast<size_t>(length));
}

}  // namespace fermata::engine
