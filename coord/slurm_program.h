// The coordinator's SlurmControl: asks by fermata-slurm (slurm/README.md).
#pragma once

#include "coord/slurm_control.h"

namespace fermata::coord {

class SlurmProgram final : public SlurmControl {
 public:
  Result<SlurmJob> job(uint64_t number) override;
  Status requeue(uint64_t number) override;
};

}  // namespace fermata::coord
