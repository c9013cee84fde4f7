// Jobs and sets as the reading commands print them: tables for people, JSON for programs (keys are
// only ever added).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "node-agent/job_registry.h"
#include "proto/control.pb.h"
#include "storage/ledger.h"

namespace fermata::cli {

nlohmann::json to_json(const node_agent::JobRecord& job);
nlohmann::json to_json(const storage::LedgerSet& set);
nlohmann::json to_json(const wire::JobInfo& job);
nlohmann::json to_json(const wire::NodeInfo& node);
/// To stdout, indented; bytes that are not UTF-8 are replaced.
void print_json(const nlohmann::json& value);

void print_table(const std::vector<node_agent::JobRecord>& jobs);
void print_table(const std::vector<storage::LedgerSet>& sets);
void print_table(const std::vector<wire::JobInfo>& jobs);
void print_table(const std::vector<wire::NodeInfo>& nodes);

}  // namespace fermata::cli
