// What a PMIx server tells its clients about their job: names, sizes, and which rank runs where.
// One node for now: the lists of nodes and of ranks per node have one entry.
#pragma once

#include <pmix_server.h>

#include <cstdint>
#include <string>

#include "common/status.h"

namespace fermata::pod {

struct PmixJob {
  std::string nspace;  ///< name of the job, "1234.0"
  std::string host;    ///< node name: Open MPI puts it into the names of its shared memory files
  std::string folder;  ///< for session files of server and clients, inside the pod
  uint32_t ranks = 1;
};

/// Registers the job and each of its ranks. Call once, after PMIx_server_init.
Status register_job(const PmixJob& job);

/// Status for a failure of a libpmix call.
Status pmix_failure(pmix_status_t status, const std::string& what);

}  // namespace fermata::pod
