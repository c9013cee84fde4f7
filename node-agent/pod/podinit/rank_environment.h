// The environment of a rank: the user's, without what another launcher left in it, and with what
// Open MPI needs to find podinit's PMIx server and to hold only what a checkpoint can hold. Pure
// functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"

namespace fermata::pod {

struct RankPlace {
  JobStep job;
  uint32_t rank = 0;
  uint32_t ranks = 1;        ///< of the step
  uint32_t local_rank = 0;   ///< among those of this pod
  uint32_t local_ranks = 1;  ///< of this pod
  uint32_t pods = 1;
  unsigned usable_cores = 1;
};

/// `user` is the job's environment; settings in it win over our defaults.
std::vector<std::string> rank_environment(const std::vector<std::string>& user,
                                          const RankPlace& place);

/// Adds or replaces "NAME=value".
void set_variable(std::vector<std::string>& environment, const std::string& name,
                  const std::string& value);

}  // namespace fermata::pod
