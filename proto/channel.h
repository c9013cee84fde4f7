// A client's way to the coordinator: the settings that agents and commands share. Needs gRPC's
// headers: for .cc files only. Any thread.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>

#include "common/status.h"

namespace fermata::wire {

/// What gRPC itself has to say goes to the log, as debug. Once is enough; more does no harm.
void quieten_grpc();

/// A channel to "host:port". It connects when it is first used, waits 5 s at most for that, and
/// never goes by a proxy. A coordinator that is silent (its node or the network is dead) for longer
/// than `silence` ends its calls.
std::shared_ptr<grpc::Channel> open_channel(const std::string& address,
                                            std::chrono::milliseconds silence);

/// A failed call as a Status: a sentence of ours comes back as it was; where nobody answered, kGone
/// names `address`.
Status status_of(const grpc::Status& status, const std::string& address);
/// The way back.
grpc::Status grpc_status_of(const Status& status);

}  // namespace fermata::wire
