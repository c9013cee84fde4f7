// What a command or the coordinator asks of Slurm, through fermata-slurm (slurm/README.md): this
// program does not link libslurm. Any thread.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata {

/// Whether there is a Slurm to be asked: it has a configuration ($SLURM_CONF,
/// /etc/slurm/slurm.conf) and fermata-slurm is installed, beside this program or in its libexec
/// folder.
bool has_slurm();

/// Runs one request; its answer, or the failure it tells. kTimeout: none in this time.
Result<nlohmann::json> ask_slurm(const std::vector<std::string>& words,
                                 std::chrono::milliseconds within = std::chrono::minutes(2));

}  // namespace fermata
