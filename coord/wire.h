// Between the plain types of this folder and the messages of proto/control.proto. Pure functions.
#pragma once

#include "common/ids.h"
#include "proto/exchange.pb.h"

namespace fermata::coord {

wire::PodId to_wire(const PodId& pod);
PodId from_wire(const wire::PodId& pod);

}  // namespace fermata::coord
