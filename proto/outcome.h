// A Status on the wire. Plain functions; any thread.
#pragma once

#include "common/status.h"
#include "proto/control.pb.h"

namespace fermata::wire {

Outcome to_outcome(const Status& status);
/// A code that this version does not know is kInternal.
Status to_status(const Outcome& outcome);

}  // namespace fermata::wire
