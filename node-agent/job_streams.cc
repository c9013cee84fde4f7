#include "node-agent/job_streams.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "common/stream_name.h"

namespace fermata::node_agent {
namespace {

constexpr const char* kNothing = "/dev/null";

Result<UniqueFd> open_for_append(const std::string& path) {
  if (path.empty() || path[0] != '/') {
    return failure(Code::kUsage,
                   fmt::format("{}: the path of a job's output has to be absolute", path));
  }
  // Not to wait for a reader, should it be a FIFO; without one it cannot be opened.
  constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
  UniqueFd fd(open(path.c_str(), kFlags, 0666));
  if (!fd) return errno_failure(errno, fmt::format("the job's output {}", path));
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return errno_failure(errno, fmt::format("fcntl of the job's output {}", path));
  }
  return fd;
}

}  // namespace

Result<JobStreams> open_streams(const wire::Streams& names, const PodId& pod, std::string_view host,
                                const Credentials& owner) {
  JobStreams streams;
  streams.in.reset(open(kNothing, O_RDONLY | O_CLOEXEC));
  if (!streams.in) return errno_failure(errno, kNothing);
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
  const auto path_of = [&](const std::string& name) {
    return name.empty() ? kNothing : expand_stream_name(name, pod, host);
  };
  const std::string output = path_of(names.output());
  const std::string error = names.error().empty() ? output : path_of(names.error());
  FERMATA_ASSIGN(streams.out, open_for_append(output));
  if (error == output) {
    streams.err.reset(fcntl(streams.out.get(), F_DUPFD_CLOEXEC, 0));
    if (!streams.err) return errno_failure(errno, fmt::format("the job's output {}", output));
  } else {
    FERMATA_ASSIGN(streams.err, open_for_append(error));
  }
  return streams;
}

}  // namespace fermata::node_agent
