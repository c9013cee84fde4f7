#include "coord/server.h"

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/worker_pool.h"
#include "coord/agent_streams.h"
#include "coord/permissions.h"
#include "proto/channel.h"
#include "proto/control.grpc.pb.h"
#include "proto/protocol.h"

namespace fermata::coord {
namespace {

/// The request of a user or admin from its arrival to its answer: finished once, whoever comes
/// first.
class OpenCall {
 public:
  explicit OpenCall(grpc::ServerUnaryReactor* reactor) : reactor_(reactor) {}
  OpenCall(const OpenCall&) = delete;
  OpenCall& operator=(const OpenCall&) = delete;
  /// Who drops a request without an answer has not answered it.
  ~OpenCall() {
    finish(wire::grpc_status_of({Code::kInternal, "the coordinator dropped the request"}), [] {});
  }

  /// `fill` writes the reply, if there is to be one.
  template <typename Fill>
  void finish(const grpc::Status& status, Fill&& fill) {
    const std::lock_guard lock(mutex_);
    if (reactor_ == nullptr) return;
    fill();
    std::exchange(reactor_, nullptr)->Finish(status);
  }

 private:
  std::mutex mutex_;
  grpc::ServerUnaryReactor* reactor_;
};

/// What a request takes that was not checked yet.
class Room {
 public:
  Room(std::atomic<size_t>& all, size_t bytes) : all_(all), bytes_(bytes) {
    enough_ = (all_ += bytes) <= kMostUnchecked && bytes <= kLargestRequest;
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() { all_ -= bytes_; }
  bool enough() const { return enough_; }

 private:
  static constexpr size_t kLargestRequest = size_t{16} << 20;
  static constexpr size_t kMostUnchecked = size_t{256} << 20;

  std::atomic<size_t>& all_;
  const size_t bytes_;
  bool enough_ = false;
};

/// The open ones, so that stop() can end them. Outlived by calls that a Requests keeps.
class OpenCalls {
 public:
  std::shared_ptr<OpenCall> add(grpc::ServerUnaryReactor* reactor) {
    auto call = std::make_shared<OpenCall>(reactor);
    const std::lock_guard lock(mutex_);
    if (closed_) {
      call->finish(going_down(), [] {});
    } else {
      if (calls_.size() >= sweep_at_) sweep();
      calls_.push_back(call);
    }
    return call;
  }
  void close() {
    std::vector<std::weak_ptr<OpenCall>> calls;
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      calls.swap(calls_);
    }
    for (const auto& weak : calls) {
      if (const auto call = weak.lock()) call->finish(going_down(), [] {});
    }
  }

 private:
  static grpc::Status going_down() {
    return wire::grpc_status_of({Code::kGone, "the coordinator is going down"});
  }
  /// Forgets those that are answered; the next time when there are twice as many as are left.
  void sweep() {
    std::erase_if(calls_, [](const auto& weak) { return weak.expired(); });
    sweep_at_ = std::max<size_t>(64, 2 * calls_.size());
  }

  std::mutex mutex_;
  bool closed_ = false;
  size_t sweep_at_ = 64;
  std::vector<std::weak_ptr<OpenCall>> calls_;
};

}  // namespace

struct Server::Parts final : wire::Coordinator::CallbackService {
  Parts(ServerOptions the_options, Authenticator& the_authenticator)
      : options(std::move(the_options)), authenticator(the_authenticator) {}

  /// Checks who asks and for what, then has `ask` answer: (caller, request, respond).
  template <typename Request, typename Reply, typename Ask>
  grpc::ServerUnaryReactor* take(grpc::CallbackServerContext* context, const wire::Signed* message,
                                 Reply* reply, std::string_view method, Ask ask) {
    auto* reactor = context->DefaultReactor();
    if (requests == nullptr) {
      reactor->Finish(wire::grpc_status_of(
          {Code::kUsage,
           "this is an agent's port, not the coordinator's; see the config key coordinator"}));
      return reactor;
    }
    // Nobody has said yet who they are: what they send is not kept without end.
    auto room = std::make_shared<Room>(unchecked, message->ByteSizeLong());
    if (!room->enough()) {
      log_refused(method, context->peer(), "it is too big, or there is too much to check");
      reactor->Finish(wire::grpc_status_of(
          {Code::kBusy, "the request is too big, or too much is asked at once; try again"}));
      return reactor;
    }
    checkers->post([this, call = calls.add(reactor), reply, method, ask, peer = context->peer(),
                    room, message = *message]() mutable {
      Caller caller;
      Request request;
      if (const Status allowed = admit(message, method, caller, request); !allowed) {
        log_refused(method, peer, allowed.message());
        call->finish(wire::grpc_status_of(allowed), [] {});
        return;
      }
      room.reset();
      ask(caller, request, [call, reply, method, peer, uid = caller.uid](Reply answer) {
        if constexpr (requires { answer.outcome(); }) {
          if (answer.outcome().code() == static_cast<int>(Code::kPermission)) {
            log_refused(method, peer, fmt::format("uid {}: {}", uid, answer.outcome().message()));
          }
        }
        call->finish(grpc::Status::OK, [&] { *reply = std::move(answer); });
      });
    });
    return reactor;
  }

  static void log_refused(std::string_view method, const std::string& peer, std::string_view why) {
    log_warning(fmt::format("refused {} from {}: {}", method, peer, why));
  }

  /// kPermission, with who it is where that is known, unless the request may be carried out.
  template <typename Request>
  Status admit(const wire::Signed& message, std::string_view method, Caller& caller,
               Request& request) {
    FERMATA_ASSIGN_STATUS(const Identity who,
                          authenticator.check(message.credential(), method, message.request()));
    caller = {.uid = who.uid, .gid = who.gid, .admin = options.admins.contains(who.uid)};
    FERMATA_TRY(may_call(method, caller));
    if (!request.ParseFromString(message.request())) {
      return {Code::kUsage,
              fmt::format("the request of uid {} is no message of this protocol", who.uid)};
    }
    return Status::ok();
  }

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  template <typename Reply>
  using Respond = Requests::Respond<Reply>;

  grpc::ServerBidiReactor<wire::FromAgent, wire::ToAgent>* Attach(Context* context) override {
    return streams->open(*context);
  }
  Unary* Run(Context* context, const wire::Signed* message, wire::RunReply* reply) override {
    return take<wire::RunRequest>(context, message, reply, wire::kRun,
                                  std::bind_front(&Requests::run, requests));
  }
  Unary* Wait(Context* context, const wire::Signed* message, wire::WaitReply* reply) override {
    return take<wire::JobRequest>(context, message, reply, wire::kWait,
                                  std::bind_front(&Requests::wait, requests));
  }
  Unary* Signal(Context* context, const wire::Signed* message, wire::SignalReply* reply) override {
    return take<wire::SignalRequest>(context, message, reply, wire::kSignal,
                                     std::bind_front(&Requests::signal, requests));
  }
  Unary* Checkpoint(Context* context, const wire::Signed* message,
                    wire::CheckpointReply* reply) override {
    return take<wire::CheckpointRequest>(context, message, reply, wire::kCheckpoint,
                                         std::bind_front(&Requests::checkpoint, requests));
  }
  Unary* Able(Context* context, const wire::Signed* message, wire::AbleReply* reply) override {
    return take<wire::JobRequest>(context, message, reply, wire::kAble,
                                  std::bind_front(&Requests::able, requests));
  }
  Unary* Restart(Context* context, const wire::Signed* message, wire::RunReply* reply) override {
    return take<wire::RestartRequest>(context, message, reply, wire::kRestart,
                                      std::bind_front(&Requests::restart, requests));
  }
  Unary* Jobs(Context* context, const wire::Signed* message, wire::JobsReply* reply) override {
    return take<wire::Empty>(
        context, message, reply, wire::kJobs,
        [this](const Caller& caller, const wire::Empty&, Respond<wire::JobsReply> respond) {
          requests->jobs(caller, std::move(respond));
        });
  }
  Unary* Nodes(Context* context, const wire::Signed* message, wire::NodesReply* reply) override {
    return take<wire::Empty>(
        context, message, reply, wire::kNodes,
        [this](const Caller& caller, const wire::Empty&, Respond<wire::NodesReply> respond) {
          requests->nodes(caller, std::move(respond));
        });
  }
  Unary* Control(Context* context, const wire::Signed* message,
                 wire::ControlReply* reply) override {
    return take<wire::ControlRequest>(context, message, reply, wire::kControl,
                                      std::bind_front(&Requests::control, requests));
  }
  Unary* Requeue(Context* context, const wire::Signed* message,
                 wire::RequeueReply* reply) override {
    return take<wire::RequeueRequest>(context, message, reply, wire::kRequeue,
                                      std::bind_front(&Requests::requeue, requests));
  }
  Unary* Drain(Context* context, const wire::Signed* message, wire::NodesReply* reply) override {
    return take<wire::DrainRequest>(context, message, reply, wire::kDrain,
                                    std::bind_front(&Requests::drain, requests));
  }

  const ServerOptions options;
  Authenticator& authenticator;
  Requests* requests = nullptr;
  OpenCalls calls;
  std::atomic<size_t> unchecked = 0;  ///< bytes of requests that wait to be checked
  // Ended before what they work on.
  std::unique_ptr<AgentStreams> streams;
  std::unique_ptr<WorkerPool> checkers;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

Server::Server(ServerOptions options, Authenticator& authenticator)
    : parts_(std::make_unique<Parts>(std::move(options), authenticator)) {}

Server::~Server() { stop(); }

Status Server::start(FleetListener& listener, Requests& requests) {
  parts_->requests = &requests;
  return start_parts(listener);
}

Status Server::start(FleetListener& listener) { return start_parts(listener); }

Status Server::start_parts(FleetListener& listener) {
  const ServerOptions& options = parts_->options;
  wire::quieten_grpc();
  parts_->checkers = std::make_unique<WorkerPool>(options.checkers);
  parts_->streams =
      std::make_unique<AgentStreams>(options, parts_->authenticator, listener, *parts_->checkers);
  // Half of the silence until a ping goes out, half of it for the answer.
  const int half = static_cast<int>(options.silence.count() / 2);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, half);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, half);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The agents' own pings are welcome however often they come.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  // gRPC would let a second coordinator listen on the same port.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(wire::kLargestMessage);
  builder.SetMaxSendMessageSize(wire::kLargestMessage);
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &parts_->port);
  builder.RegisterService(parts_.get());
  parts_->server = builder.BuildAndStart();
  if (parts_->server) return Status::ok();
  return {Code::kConflict,
          fmt::format("cannot listen on {}: another process has the port, or the address is none "
                      "of this machine (config key listen)",
                      options.listen)};
}

int Server::port() const { return parts_->port; }

void Server::stop() {
  if (parts_->streams) parts_->streams->close();
  parts_->calls.close();
  if (parts_->server) parts_->server->Shutdown(std::chrono::system_clock::now());
  parts_->checkers.reset();
  parts_->server.reset();
}

void Server::send(const std::string& node, wire::Order order, Answer answer) {
  parts_->streams->send(node, std::move(order), std::move(answer));
}

void Server::tell(const std::string& node, wire::ExchangeDown message) {
  parts_->streams->tell(node, std::move(message));
}

bool Server::attached(const std::string& node) const { return parts_->streams->attached(node); }

}  // namespace fermata::coord
