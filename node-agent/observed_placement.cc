#include "node-agent/observed_placement.h"

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <optional>

#include "common/file_util.h"
#include "numa/placement.h"
#include "numa/plan.h"
#include "numa/survey.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// The number in the innermost PID namespace: the last of "NSpid:" (proc(5)).
std::optional<int> number_in_pod(const fs::path& folder) {
  const Result<std::string> status = read_file(folder / "status");
  if (!status) return std::nullopt;
  constexpr std::string_view kKey = "\nNSpid:";
  const size_t at = status->find(kKey);
  if (at == std::string::npos) return std::nullopt;
  const std::string_view line = std::string_view(*status).substr(
      at + kKey.size(), status->find('\n', at + 1) - at - kKey.size());
  const std::string_view last = line.substr(line.find_last_of('\t') + 1);
  int number = 0;
  const auto [end, error] = std::from_chars(last.data(), last.data() + last.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

std::optional<numa::ProcessToPlace> process_of(pid_t pid) {
  const fs::path folder = fmt::format("/proc/{}", pid);
  const std::optional<int> vpid = number_in_pod(folder);
  if (!vpid) return std::nullopt;
  numa::ProcessToPlace process;
  process.vpid = *vpid;
  process.pid = pid;
  std::error_code ended;
  for (const fs::directory_entry& task : fs::directory_iterator(folder / "task", ended)) {
    const std::optional<int> vtid = number_in_pod(task.path());
    const std::string name = task.path().filename();
    numa::ThreadToPlace thread;
    if (!vtid ||
        std::from_chars(name.data(), name.data() + name.size(), thread.tid).ec != std::errc()) {
      continue;
    }
    thread.vtid = *vtid;
    if (numa::affinity_of(thread.tid)) process.threads.push_back(thread);
  }
  return process;
}

}  // namespace

Result<image::Placement> observe_placement(const fs::path& group) {
  FERMATA_ASSIGN(const numa::Topology topology, numa::current_topology());
  numa::Allowed allowed;
  numa::PageSurvey survey;
  std::vector<numa::ProcessToPlace> processes;
  std::ifstream pids(group / "cgroup.procs");
  for (pid_t pid = 0; pids >> pid;) {
    std::optional<numa::ProcessToPlace> process = process_of(pid);
    if (!process) continue;
    if (process->vpid == 1) {
      FERMATA_ASSIGN(allowed, numa::allowed_of(pid));
    }
    Result<std::vector<numa::NodeRun>> runs = numa::survey_process(pid);
    if (!runs && runs.error().code() == Code::kPermission) return Failure(runs.error());
    if (!runs) continue;  // it has ended
    for (const numa::NodeRun& run : *runs) {
      process->ranges.push_back({run.start, run.start + run.length, false, -1, {}});
    }
    survey[pid] = *std::move(runs);
    processes.push_back(*std::move(process));
  }
  return numa::capture_placement(topology, allowed, processes, survey);
}

}  // namespace fermata::node_agent
