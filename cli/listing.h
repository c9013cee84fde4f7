// Jobs and sets as the reading commands print them: tables for people, JSON for programs (keys are
// only ever added).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "node-agent/job_registry.h"
#include "storage/ledger.h"

namespace fermata::cli {

nlohmann::json to_json(const node_agent::JobRecord& job);
nlohmann::json to_json(const storage::LedgerSet& set);
/// To stdout, indented; bytes that are not UTF-8 are replaced.
void print_json(const nlohmann::json& value);

void print_table(const std::vector<node_agent::JobRecord>& jobs);
void print_table(const std::vector<storage::LedgerSet>& sets);

}  // namespace fermata::cli
