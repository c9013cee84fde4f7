// What an image says of sockets, checked against itself before any is made. Any thread.
#pragma once

#include "common/status.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Addresses, states, lengths and numbers of TCP and UDP sockets; kDamaged names the first that is
/// wrong. Whom a socket is connected to is checked when that is known: against the image, or
/// against the addresses that the pods exchange.
Status validate_sockets(const image::PodObjects& objects);

}  // namespace fermata::engine
