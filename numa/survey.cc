#include "numa/survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "common/file_util.h"

namespace fermata::numa {
namespace {

struct MapLine {
  uint64_t start = 0;
  uint64_t end = 0;
  std::string_view protection;  // "rw-p"
  std::string_view name;
};

/// proc(5), /proc/PID/maps: "START-END PROT OFFSET DEVICE INODE NAME".
std::optional<MapLine> parse(std::string_view line) {
  MapLine map;
  const char* const end = line.data() + line.size();
  const auto first = std::from_chars(line.data(), end, map.start, 16);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, map.end, 16);
  if (second.ec != std::errc() || end - second.ptr < 5) return std::nullopt;
  map.protection = std::string_view(second.ptr + 1, 4);
  const size_t name = line.find_first_of("/[");
  if (name != std::string_view::npos) map.name = line.substr(name);
  return map;
}

/// Pages of files belong to the system; private ones that were written to are the process's.
bool is_job_memory(const MapLine& map) {
  if (map.protection.starts_with("---")) return false;
  if (map.name.starts_with("[v")) return false;  // vdso, vvar, vsyscall
  const bool file = map.name.starts_with("/");
  if (map.protection[3] == 'p') return !file || map.protection[1] == 'w';
  return map.name.starts_with("/dev/shm/") || map.name.starts_with("/memfd:") ||
         map.name.starts_with("/dev/zero") || map.name.starts_with("/SYSV");
}

}  // namespace

Result<std::vector<NodeRun>> survey_process(pid_t pid) {
  FERMATA_ASSIGN(const std::string text, read_file(fmt::format("/proc/{}/maps", pid)));
  const AskNodes ask = ask_process(pid);
  std::vector<NodeRun> all;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const std::optional<MapLine> map = parse(line);
    if (!map || !is_job_memory(*map)) continue;
    const bool shared = map->protection[3] == 's';
    FERMATA_ASSIGN(std::vector<NodeRun> runs,
                   runs_of(map->start, map->end, ask, shared ? Gaps::kLeftOut : Gaps::kJoined));
    all.insert(all.end(), std::make_move_iterator(runs.begin()),
               std::make_move_iterator(runs.end()));
  }
  return all;
}

PageSurvey survey_pages(const std::vector<pid_t>& pids) {
  PageSurvey survey;
  for (const pid_t pid : pids) {
    if (Result<std::vector<NodeRun>> runs = survey_process(pid)) survey[pid] = *std::move(runs);
  }
  return survey;
}

std::vector<NodeRun> clip(const std::vector<NodeRun>& runs, uint64_t start, uint64_t end) {
  std::vector<NodeRun> inside;
  auto run = std::partition_point(runs.begin(), runs.end(), [&](const NodeRun& candidate) {
    return candidate.start + candidate.length <= start;
  });
  for (; run != runs.end() && run->start < end; ++run) {
    NodeRun part = *run;
    part.start = std::max(run->start, start);
    part.length = std::min(run->start + run->length, end) - part.start;
    const double share = static_cast<double>(part.length) / static_cast<double>(run->length);
    part.bytes = static_cast<uint64_t>(static_cast<double>(run->bytes) * share);
    inside.push_back(std::move(part));
  }
  return inside;
}

}  // namespace fermata::numa
