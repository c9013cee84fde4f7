#include "slurm/preemption.h"

#include <fmt/format.h>
#include <slurm/slurm.h>

#include <memory>
#include <optional>
#include <span>

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

bool requeues(uint16_t mode) {
  return (mode & ~(PREEMPT_MODE_GANG | PREEMPT_MODE_WITHIN)) == PREEMPT_MODE_REQUEUE;
}

}  // namespace

Result<bool> preemption_requeues(const std::string& partition) {
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
  slurm_conf_t* config = nullptr;
  if (slurm_load_ctl_conf(0, &config) != SLURM_SUCCESS) return Failure(failed("its configuration"));
  const std::unique_ptr<slurm_conf_t, FreeConfig> loaded(config);
  return requeues(loaded->preempt_mode);
}

}  // namespace fermata::slurm
