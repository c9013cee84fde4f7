#include "coord/permissions.h"

#include <fmt/format.h>

namespace fermata::coord {

Status may_call(std::string_view method, const Caller& caller) {
  for (const Permission& permission : kPermissions) {
    if (permission.method != method) continue;
    switch (permission.who) {
      case Who::kUser:
        return Status::ok();
      case Who::kAdmin:
        if (caller.admin) return Status::ok();
        return {Code::kPermission, fmt::format("{} is for root and SlurmUser; the caller is uid {}",
                                               method, caller.uid)};
      case Who::kAgent:
        if (caller.uid == 0) return Status::ok();
        return {Code::kPermission,
                fmt::format("{} is for the agents of nodes, which are root; the caller is uid {}",
                            method, caller.uid)};
    }
  }
  return {Code::kPermission, fmt::format("{} is no method that anybody may call", method)};
}

}  // namespace fermata::coord
