#include "proto/channel.h"

#include <fmt/format.h>
#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "common/log.h"
#include "proto/protocol.h"

namespace fermata::wire {

void quieten_grpc() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    log_debug(fmt::format("gRPC: {} ({}:{})", line->message, line->file, line->line));
  });
}

std::shared_ptr<grpc::Channel> open_channel(const std::string& address,
                                            std::chrono::milliseconds silence) {
  quieten_grpc();
  // Half of it until a ping goes out, half of it for the answer.
  const int half = static_cast<int>(silence.count() / 2);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, half);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, half);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kLargestMessage);
  arguments.SetInt(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, kLargestMessage);
  // Who tries again, and when, is for the caller to say: no subchannel (with its back-off) is
  // shared, and the first of these doubles as the time that a connection may take.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

Status status_of(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return Status::ok();
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return {Code::kGone,
              fmt::format("no coordinator answers at {}: is fermata-coordd running there? ({})",
                          address, status.error_message())};
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return {Code::kTimeout, fmt::format("the coordinator at {} did not answer in time", address)};
    default:
      return {code_of_grpc(status.error_code()), status.error_message()};
  }
}

grpc::Status grpc_status_of(const Status& status) {
  return {static_cast<grpc::StatusCode>(grpc_code_of(status.code())), status.message()};
}

}  // namespace fermata::wire
