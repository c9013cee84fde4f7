// What a PMIx server tells its clients about their job: names, sizes, and which rank runs where. To
// PMIx a pod is a node.
#pragma once

#include <pmix_server.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/pod/podinit_config.h"

namespace fermata::pod {

struct PmixJob {
  /// `folder`: for session files of server and clients, inside the pod.
  PmixJob(const PodinitConfig& config, std::string folder);

  std::string nspace;              ///< name of the job, "1234.0"
  std::vector<std::string> hosts;  ///< by pod: Open MPI puts them into names of files
  std::string folder;
  uint32_t pod;                                     ///< this one
  std::vector<uint32_t> pod_of_rank;                ///< by rank
  std::vector<std::vector<uint32_t>> ranks_of_pod;  ///< by pod, ascending

  uint32_t ranks() const { return static_cast<uint32_t>(pod_of_rank.size()); }
  uint32_t pods() const { return static_cast<uint32_t>(hosts.size()); }
  bool is_here(uint32_t rank) const { return rank < ranks() && pod_of_rank[rank] == pod; }
  const std::vector<uint32_t>& ranks_here() const { return ranks_of_pod[pod]; }
};

/// Registers the job and this pod's ranks. Call once, after PMIx_server_init.
Status register_job(const PmixJob& job);

/// Status for a failure of a libpmix call.
Status pmix_failure(pmix_status_t status, const std::string& what);

}  // namespace fermata::pod
