// Who may call what. Whose job it is, is checked by who carries the request out. Plain functions;
// any thread.
#pragma once

#include <array>
#include <string_view>

#include "common/status.h"
#include "coord/requests.h"
#include "proto/protocol.h"

namespace fermata::coord {

enum class Who {
  kUser,   ///< anybody, for jobs of their own; root and SlurmUser for all jobs
  kAdmin,  ///< root and SlurmUser
  kAgent,  ///< a node's agent: root
};

struct Permission {
  std::string_view method;
  Who who;
};

/// All methods there are.
inline constexpr std::array<Permission, 12> kPermissions{{
    {wire::kAttach, Who::kAgent},
    {wire::kRun, Who::kUser},
    {wire::kWait, Who::kUser},
    {wire::kSignal, Who::kUser},
    {wire::kCheckpoint, Who::kUser},
    {wire::kAble, Who::kUser},
    {wire::kRestart, Who::kUser},
    {wire::kJobs, Who::kUser},
    {wire::kNodes, Who::kUser},
    {wire::kControl, Who::kUser},
    {wire::kRequeue, Who::kUser},
    {wire::kDrain, Who::kAdmin},
}};

/// kPermission, naming the method and who may call it. A method that is not in the table may be
/// called by nobody.
Status may_call(std::string_view method, const Caller& caller);

}  // namespace fermata::coord
