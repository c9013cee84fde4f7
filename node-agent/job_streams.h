// The streams of a pod that no terminal and no command holds: files, so that neither the death of
// an agent nor of a command breaks a pipe under the job. Any thread; files are opened with the
// owner's rights.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

struct JobStreams {
  UniqueFd in;   ///< /dev/null
  UniqueFd out;  ///< appended to
  UniqueFd err;  ///< the same file as `out` where no other was asked for

  std::array<int, 3> fds() const { return {in.get(), out.get(), err.get()}; }
};

/// Opens them, by names as expand_stream_name() has them; files that are missing are made. An empty
/// name is /dev/null. A path has to be absolute (kUsage).
Result<JobStreams> open_streams(const wire::Streams& names, const PodId& pod, std::string_view host,
                                const Credentials& owner);

}  // namespace fermata::node_agent
