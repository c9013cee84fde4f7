#include "cli/listing.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

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

json to_json(const wire::JobInfo& job) {
  const std::vector<std::string> command(job.command().begin(), job.command().end());
  const std::vector<std::string> nodes(job.nodes().begin(), job.nodes().end());
  return {{"job", to_string(JobStep{job.job(), job.step()})},
          {"start", job.start()},
          {"state", job.state()},
          {"ranks", job.ranks()},
          {"owner", job.user()},
          {"nodes", nodes},
          {"command", command},
          {"started", utc(job.started())},
          {"folder", job.checkpoint_dir()},
          {"interval_s", static_cast<double>(job.interval_ms()) / 1000},
          {"last_crid", job.last_crid()},
          {"last_error", job.last_error()}};
}

json to_json(const wire::NodeInfo& node) {
  const std::vector<std::string> jobs(node.jobs().begin(), node.jobs().end());
  const std::vector<std::string> addresses(node.addresses().begin(), node.addresses().end());
  return {{"node", node.node()},
          {"state", node.state()},
          {"slots", node.slots()},
          {"used", node.used()},
          {"jobs", jobs},
          {"version", node.version()},
          {"kernel", node.kernel()},
          {"since", utc(node.since())},
          {"drained", node.drained() != 0},
          {"drain_reason", node.drain_reason()},
          {"addresses", addresses}};
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

void print_table(const std::vector<wire::JobInfo>& jobs) {
  std::vector<Row> rows{
      {"JOB", "STATE", "RANKS", "OWNER", "NODES", "STARTED", "LAST CRID", "COMMAND"}};
  for (const wire::JobInfo& job : jobs) {
    rows.push_back({to_string(JobStep{job.job(), job.step()}), job.state(),
                    std::to_string(job.ranks()), job.user(),
                    fmt::format("{}", fmt::join(job.nodes(), ",")), utc(job.started()),
                    job.last_crid() == 0 ? "-" : std::to_string(job.last_crid()),
                    coord::display_command({job.command().begin(), job.command().end()})});
  }
  print_rows(std::move(rows));
}

void print_table(const std::vector<wire::NodeInfo>& nodes) {
  std::vector<Row> rows{{"NODE", "STATE", "SLOTS", "FREE", "SINCE", "VERSION", "KERNEL", "JOBS"}};
  for (const wire::NodeInfo& node : nodes) {
    const std::string state = node.drained() == 0 ? "" : ", drained: " + node.drain_reason();
    rows.push_back({node.node(), node.state() + state, std::to_string(node.slots()),
                    std::to_string(node.slots() - std::min(node.used(), node.slots())),
                    utc(node.since()), node.version(), node.kernel(),
                    fmt::format("{}", fmt::join(node.jobs(), ","))});
  }
  print_rows(std::move(rows));
}

void print_table(const std::vector<LedgerSet>& sets) {
  std::vector<Row> rows{
      {"CRID", "BUILDS ON", "JOB", "STATE", "TIME", "BYTES", "STOOD STILL", "COMMAND OR REASON"}};
  for (const LedgerSet& set : sets) {
    if (set.state == SetState::kDeleted) continue;
    const bool committed = set.state == SetState::kCommitted;
    rows.push_back({to_string(set.crid),
                    set.parent.value == 0 || !committed ? "-" : to_string(set.parent),
                    to_string(set.job), std::string(storage::state_name(set.state)), set.time,
                    committed ? format_size(set.bytes) : "-",
                    committed ? fmt::format("{:.0f} ms", set.stand_still_ms) : "-",
                    set.state == SetState::kAborted ? set.reason : set.command});
  }
  print_rows(std::move(rows));
}

}  // namespace fermata::cli
