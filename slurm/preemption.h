// What Slurm does with jobs that it preempts. One thread, with a Connection.
#pragma once

#include <string>

#include "common/status.h"

namespace fermata::slurm {

/// Whether jobs of this partition are requeued: as the partition says, else the cluster. What a QOS
/// says of itself (preempt/qos) only slurmdbd knows: it is not asked.
Result<bool> preemption_requeues(const std::string& partition);

}  // namespace fermata::slurm
