// What Slurm does with jobs that it preempts. One thread, with a Connection.
#pragma once

#include <string>

#include "common/status.h"

namespace fermata::slurm {

/// Whether this cluster preempts jobs at all.
Result<bool> cluster_preempts();

/// Whether preempted jobs of this partition are requeued: as the partition says, else the cluster.
/// False with preempt/qos: what a QOS says of itself only slurmdbd knows, and a job whose QOS
/// cancels it shall not be requeued.
Result<bool> preemption_requeues(const std::string& partition);

}  // namespace fermata::slurm
