// What a command asks of Slurm, through fermata-slurm (slurm/README.md): this program does not link
// libslurm. Any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::cli {

/// Whether there is a Slurm to be asked: it has a configuration ($SLURM_CONF,
/// /etc/slurm/slurm.conf) and fermata-slurm is installed, beside this program or in its libexec
/// folder.
bool has_slurm();

/// Runs one request; its answer, or the failure it tells.
Result<nlohmann::json> ask_slurm(const std::vector<std::string>& words);

}  // namespace fermata::cli
