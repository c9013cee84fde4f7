#include "coord/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/size_parse.h"

namespace fermata::coord {
namespace {

using nlohmann::json;

double milliseconds_of(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

json json_of(const PhaseTimes& times) {
  json phases = json::object();
  for (const Phase phase : kPhases) {
    phases[std::string(phase_name(phase))] = milliseconds_of(times[static_cast<size_t>(phase)]);
  }
  return phases;
}

}  // namespace

std::string describe(const TriedSet& tried) {
  const SetOutcome& outcome = tried.outcome;
  if (!outcome.committed()) {
    const std::string name =
        tried.crid.value == 0 ? "checkpoint" : "checkpoint " + to_string(tried.crid);
    return fmt::format("{} failed: {}", name, outcome.status.message());
  }
  const Crid parent = tried.manifest.parent;
  const std::string builds_on =
      parent.value == 0 ? std::string() : fmt::format(" (builds on {})", to_string(parent));
  const double held = milliseconds_of(outcome.held());
  const std::string later =
      held == 0 ? std::string() : fmt::format(" and {:.0f} ms for want of memory", held);
  std::string line = fmt::format(
      "checkpoint {} committed: stood still {:.0f} ms{}, {} of memory, {} {}{}, {:.2f} s",
      to_string(tried.crid), milliseconds_of(outcome.stand_still()), later,
      format_size(outcome.memory_bytes()), outcome.reports.size() == 1 ? "image" : "images",
      format_size(outcome.image_bytes()), builds_on, milliseconds_of(outcome.total) / 1000);
  if (!outcome.end_job) line += fmt::format("; not ended: {}", outcome.end_job.message());
  return line;
}

std::string describe_json(const TriedSet& tried) {
  const SetOutcome& outcome = tried.outcome;
  const bool copied = std::all_of(outcome.reports.begin(), outcome.reports.end(),
                                  [](const AgentReport& report) { return report.copied; });
  json nodes = json::array();
  for (size_t i = 0; i < tried.nodes.size() && i < outcome.took.size(); ++i) {
    nodes.push_back({{"node", tried.nodes[i]},
                     {"pod", i},
                     {"stand_still_ms", milliseconds_of(outcome.reports[i].stand_still)},
                     {"held_ms", milliseconds_of(outcome.reports[i].held)},
                     {"phases_ms", json_of(outcome.took[i])}});
  }
  json out = {{"crid", tried.crid.value},
              {"committed", outcome.committed()},
              {"attempts", tried.attempts},
              {"folder", tried.folder.string()},
              {"stand_still_ms", milliseconds_of(outcome.stand_still())},
              {"held_ms", milliseconds_of(outcome.held())},
              {"parent", tried.manifest.parent.value},
              {"track", outcome.reports.empty() ? "" : outcome.reports.front().track},
              {"memory_bytes", outcome.memory_bytes()},
              {"image_bytes", outcome.image_bytes()},
              {"copied", copied && !outcome.reports.empty()},
              {"snapshot", outcome.reports.empty() ? "" : outcome.reports.front().snapshot},
              {"total_ms", milliseconds_of(outcome.total)},
              {"phases_ms", json_of(outcome.phase_time)},
              {"nodes", std::move(nodes)},
              {"sentence", describe(tried)}};
  if (!outcome.committed()) out["reason"] = outcome.status.message();
  return out.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace fermata::coord
