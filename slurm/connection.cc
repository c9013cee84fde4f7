#include "slurm/connection.h"

#include <fmt/format.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

namespace fermata::slurm {
namespace {

Code code_of(int error) {
  switch (error) {
    case ESLURM_ACCESS_DENIED:
    case ESLURM_USER_ID_MISSING:
      return Code::kPermission;
    case ESLURM_INVALID_JOB_ID:
    case ESLURM_INVALID_NODE_NAME:
      return Code::kNotFound;
    case ESLURM_ALREADY_DONE:
      return Code::kGone;
    case ESLURM_DISABLED:
      return Code::kBusy;
    case SLURMCTLD_COMMUNICATIONS_CONNECTION_ERROR:
    case SLURM_COMMUNICATIONS_CONNECTION_ERROR:
      return Code::kGone;
    default:
      return Code::kUnsupported;
  }
}

}  // namespace

Connection::Connection() {
  // Needed, and there, since 20.11.
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(20, 11, 0)
  slurm_init(nullptr);
#endif
}

Connection::~Connection() {
#if SLURM_VERSION_NUMBER >= SLURM_VERSION_NUM(20, 11, 0)
  slurm_fini();
#endif
}

Status failed(std::string_view what) {
  const int error = errno;  // slurm_get_errno() is not in all releases; it is errno
  return {code_of(error), fmt::format("Slurm: {}: {}", what, slurm_strerror(error))};
}

std::vector<std::string> expand(const char* nodes) {
  std::vector<std::string> names;
  if (nodes == nullptr) return names;
  auto* list = slurm_hostlist_create(nodes);  // its type is another since 23.02
  if (list == nullptr) return names;
  while (char* name = slurm_hostlist_shift(list)) {
    names.emplace_back(name);
    std::free(name);  // NOLINT(cppcoreguidelines-no-malloc): hostlist's own (slurm.h)
  }
  slurm_hostlist_destroy(list);
  return names;
}

}  // namespace fermata::slurm
