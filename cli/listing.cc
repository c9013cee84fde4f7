#include "cli/listing.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/size_parse.h"
#include "coord/coordinator.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;
using node_agent::JobRecord;
using storage::LedgerSet;
using storage::SetState;

using Row = std::vector<std::string>;

/// Columns as wide as their widest cell; the last as long as it is.
void print_rows(std::vector<Row> rows) {
  std::vector<size_t> widths;
  for (Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::string& cell : row) cell = storage::printable(cell);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i + 1 < row.size() ? fmt::format("{:<{}}  ", row[i], widths[i]) : row[i];
    }
    std::puts(line.c_str());
  }
}

std::string utc(int64_t seconds) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

}  // namespace

json to_json(const JobRecord& job) {
  return {{"job", to_string(job.job)},
          {"state", "running"},
          {"ranks", job.ranks},
          {"owner", job.owner},
          {"command", job.command},
          {"started", utc(job.started)},
          {"folder", job.folder.string()},
          {"interval_s", job.interval_s},
          {"init_pid", job.init},
          {"agent_pid", job.agent},
          {"group", job.group.string()}};
}

json to_json(const LedgerSet& set) {
  json out = {{"crid", set.crid.value},
              {"parent", set.parent.value},
              {"job", to_string(set.job)},
              {"state", std::string(storage::state_name(set.state))},
              {"user", set.user},
              {"command", set.command},
              {"time", set.time},
              {"bytes", set.bytes},
              {"stand_still_ms", set.stand_still_ms}};
  if (!set.reason.empty()) out["reason"] = set.reason;
  return out;
}

void print_json(const json& value) {
  std::puts(value.dump(2, ' ', false, json::error_handler_t::replace).c_str());
}

void print_table(const std::vector<JobRecord>& jobs) {
  std::vector<Row> rows{{"JOB", "RANKS", "OWNER", "STARTED", "FOLDER", "COMMAND"}};
  for (const JobRecord& job : jobs) {
    rows.push_back({to_string(job.job), std::to_string(job.ranks), job.owner, utc(job.started),
                    job.folder.string(), coord::display_command(job.command)});
  }
  print_rows(std::move(rows));
}

void print_table(const std::vector<LedgerSet>& sets) {
  std::vector<Row> rows{
      {"CRID", "JOB", "STATE", "TIME", "BYTES", "STOOD STILL", "COMMAND OR REASON"}};
  for (const LedgerSet& set : sets) {
    const bool committed = set.state == SetState::kCommitted;
    rows.push_back({to_string(set.crid), to_string(set.job),
                    std::string(storage::state_name(set.state)), set.time,
                    committed ? format_size(set.bytes) : "-",
                    committed ? fmt::format("{:.0f} ms", set.stand_still_ms) : "-",
                    set.state == SetState::kAborted ? set.reason : set.command});
  }
  print_rows(std::move(rows));
}

}  // namespace fermata::cli
