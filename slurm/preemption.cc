#include "slurm/preemption.h"

#include <fmt/format.h>
#include <slurm/slurm.h>

#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "slurm/connection.h"

namespace fermata::slurm {
namespace {

struct FreePartitions {
  void operator()(partition_info_msg_t* partitions) const {
    slurm_free_partition_info_msg(partitions);
  }
};
struct FreeConfig {
  void operator()(slurm_conf_t* config) const { slurm_free_ctl_conf(config); }
};

using Config = std::unique_ptr<slurm_conf_t, FreeConfig>;

uint16_t without_flags(uint16_t mode) {
  return static_cast<uint16_t>(mode & ~(PREEMPT_MODE_GANG | PREEMPT_MODE_WITHIN));
}

bool requeues(uint16_t mode) { return without_flags(mode) == PREEMPT_MODE_REQUEUE; }

Result<Config> load_config() {
  slurm_conf_t* config = nullptr;
  if (slurm_load_ctl_conf(0, &config) != SLURM_SUCCESS) return Failure(failed("its configuration"));
  return Config(config);
}

std::string_view type_of(const slurm_conf_t& config) {
  return config.preempt_type == nullptr ? "preempt/none" : config.preempt_type;
}

}  // namespace

Result<bool> cluster_preempts() {
  FERMATA_ASSIGN(const Config config, load_config());
  // A partition may say more than the cluster's mode, but nothing is preempted without a plugin.
  return type_of(*config) != "preempt/none";
}

Result<bool> preemption_requeues(const std::string& partition) {
  FERMATA_ASSIGN(const Config config, load_config());
  if (type_of(*config) == "preempt/qos") return false;
  partition_info_msg_t* raw = nullptr;
  if (slurm_load_partitions(0, &raw, SHOW_ALL) != SLURM_SUCCESS) {
    return Failure(failed("its partitions"));
  }
  const std::unique_ptr<partition_info_msg_t, FreePartitions> partitions(raw);
  for (const partition_info_t& one :
       std::span(partitions->partition_array, partitions->record_count)) {
    if (one.name == nullptr || partition != one.name || one.preempt_mode == NO_VAL16) continue;
    return requeues(one.preempt_mode);
  }
  return requeues(config->preempt_mode);
}

}  // namespace fermata::slurm
