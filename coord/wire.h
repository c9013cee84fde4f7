// Between the plain types of this folder and the messages of proto/. Pure functions.
#pragma once

#include "proto/pod_id.h"

namespace fermata::coord {

using wire::from_wire;
using wire::to_wire;

}  // namespace fermata::coord
