// The coordinator's SlurmControl: asks by fermata-slurm (slurm/README.md).
#pragma once

#include "coord/slurm_control.h"

namespace fermata::coord {

class SlurmProgram final : public SlurmControl {
 public:
  Result<SlurmJob> job(uint64_t number, std::chrono::milliseconds within) override;
  Result<bool> preempts(std::chrono::milliseconds within) override;
  Status requeue(uint64_t number) override;
};

}  // namespace fermata::coord
