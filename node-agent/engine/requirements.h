// What a machine must have for a pod to run on: CPU features, XSTATE layout, vDSO. Any thread.
#pragma once

#include "common/status.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// What this machine has.
Result<image::Requirements> requirements_of_this_machine();

}  // namespace fermata::engine
