#include "node-agent/engine/maps.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace fermata::engine {
namespace {

struct FileCloser {
  void operator()(FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<FILE, FileCloser>;

bool parse_map_line(const char* line, Map& map) {
  char permissions[8] = {};
  unsigned major = 0;
  unsigned minor = 0;
  int name_at = 0;
  const int fields =
      std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64 " %n", &map.start,
                  &map.end, permissions, &map.offset, &major, &minor, &map.inode, &name_at);
  if (fields < 7) return false;
  map.protection = (permissions[0] == 'r' ? PROT_READ : 0) |
                   (permissions[1] == 'w' ? PROT_WRITE : 0) |
                   (permissions[2] == 'x' ? PROT_EXEC : 0);
  map.shared = permissions[3] == 's';
  map.device = makedev(major, minor);
  map.name = name_at > 0 ? line + name_at : "";
  if (!map.name.empty() && map.name.back() == '\n') map.name.pop_back();
  return true;
}

void parse_flags(const char* text, Map& map) {
  std::string word;
  for (const char* c = text;; ++c) {
    if (*c == ' ' || *c == '\n' || *c == '\0') {
      if (!word.empty()) map.flags.push_back(word);
      word.clear();
      if (*c == '\0') break;
    } else {
      word.push_back(*c);
    }
  }
}

Result<std::vector<Map>> read(pid_t pid, const char* which) {
  const std::string path = fmt::format("/proc/{}/{}", pid, which);
  const File file(std::fopen(path.c_str(), "re"));
  if (!file) return errno_failure(errno, fmt::format("opening {}", path));
  std::vector<Map> maps;
  char* line = nullptr;
  size_t capacity = 0;
  while (::getline(&line, &capacity, file.get()) > 0) {
    Map map;
    if (std::string_view(line).starts_with("VmFlags:") && !maps.empty()) {
      parse_flags(line + 8, maps.back());
    } else if (std::string_view(line).starts_with("ProtectionKey:") && !maps.empty()) {
      maps.back().protection_key = std::atoi(line + 14);
    } else if (parse_map_line(line, map)) {
      maps.push_back(std::move(map));
    }
  }
  std::free(line);
  return maps;
}

}  // namespace

bool Map::has_flag(std::string_view flag) const {
  return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

Result<std::vector<Map>> read_maps(pid_t pid) { return read(pid, "maps"); }
Result<std::vector<Map>> read_smaps(pid_t pid) { return read(pid, "smaps"); }

}  // namespace fermata::engine
