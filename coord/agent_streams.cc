#include "coord/agent_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/log.h"
#include "coord/permissions.h"
#include "proto/channel.h"
#include "proto/protocol.h"

namespace fermata::coord {
namespace {

/// A host name; it stands in sentences and in names of files.
bool is_node_name(const std::string& name) {
  constexpr size_t kLongest = 255;
  return !name.empty() && name.size() <= kLongest && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '-' || c == '_';
         });
}

grpc::Status going_down() {
  return wire::grpc_status_of({Code::kGone, "the coordinator is going down"});
}

}  // namespace

AgentStreams::AgentStreams(const ServerOptions& options, Authenticator& authenticator,
                           FleetListener& listener, WorkerPool& checkers)
    : options_(options), authenticator_(authenticator), listener_(listener), checkers_(checkers) {}

grpc::ServerBidiReactor<wire::FromAgent, wire::ToAgent>* AgentStreams::open(
    grpc::CallbackServerContext& context) {
  const auto stream = std::make_shared<AgentStream>(*this, listener_, context.peer());
  bool closed = false;
  bool full = false;
  {
    const std::lock_guard lock(names_);
    closed = closed_;
    full = all_.size() >= by_node_.size() + options_.strangers;
    if (!closed && !full) all_.emplace(stream.get(), stream);
  }
  stream->begin(options_.hello_within);
  if (closed) {
    stream->end(going_down(), false);
  } else if (full) {
    const Status why(Code::kBusy, "too many streams wait to be accepted");
    log_refused(*stream, why);
    stream->end(wire::grpc_status_of(why), false);
  }
  return stream.get();
}

void AgentStreams::close() {
  std::vector<std::shared_ptr<AgentStream>> streams;
  {
    const std::lock_guard lock(names_);
    closed_ = true;
    for (const auto& [key, stream] : all_) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->end(going_down(), false);
}

void AgentStreams::said_hello(const std::shared_ptr<AgentStream>& stream, wire::Signed hello) {
  checkers_.post([this, stream, hello = std::move(hello)] {
    const auto accepted = read_hello(hello);
    Result<wire::Signed> welcome = accepted ? attach(stream, *accepted) : Failure(accepted.error());
    if (welcome) {
      stream->welcome(*std::move(welcome));
      return;
    }
    log_refused(*stream, welcome.error());
    stream->end(wire::grpc_status_of(welcome.error()), true);
  });
}

void AgentStreams::log_refused(const AgentStream& stream, const Status& why) {
  if (why.code() == Code::kGone) return;
  // A credential that is no good is told each time. An agent of another version tries again every
  // few seconds.
  if (why.code() != Code::kPermission) {
    constexpr size_t kMost = 10'000;
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard lock(refusals_mutex_);
    if (refusals_.size() >= kMost) refusals_.clear();
    const auto [last, first] = refusals_.try_emplace(why.message(), now);
    if (!first && now - last->second < std::chrono::minutes(1)) return;
    last->second = now;
  }
  log_warning(fmt::format("refused an agent at {}: {}", stream.peer(), why.message()));
}

Result<wire::Hello> AgentStreams::read_hello(const wire::Signed& hello) {
  FERMATA_ASSIGN(const Identity who,
                 authenticator_.check(hello.credential(), wire::kAttach, hello.request()));
  FERMATA_TRY_RESULT(may_call(
      wire::kAttach, {.uid = who.uid, .gid = who.gid, .admin = options_.admins.contains(who.uid)}));
  wire::Hello read;
  if (!read.ParseFromString(hello.request())) {
    return failure(Code::kUsage, "its hello is no message of this protocol");
  }
  if (!is_node_name(read.node())) {
    return failure(Code::kUsage, "its hello names no node: a host name is expected");
  }
  if (read.version() != options_.version) {
    return failure(Code::kUnsupported,
                   fmt::format("the agent on {} is of version {}, this coordinator of version {}: "
                               "install the same version on both",
                               read.node(), read.version(), options_.version));
  }
  return read;
}

Result<wire::Signed> AgentStreams::attach(const std::shared_ptr<AgentStream>& stream,
                                          const wire::Hello& hello) {
  wire::Welcome welcome;
  {
    const std::lock_guard attaching(attaching_);
    std::shared_ptr<AgentStream> before;
    {
      const std::lock_guard lock(names_);
      if (closed_) return failure(Code::kGone, "the coordinator is going down");
      stream->set_node(hello.node());
      before = std::exchange(by_node_[hello.node()], stream);
    }
    if (before) {
      log_warning(fmt::format("a second agent of {}, at {}, takes the place of the one at {}",
                              hello.node(), stream->peer(), before->peer()));
      before->end(wire::grpc_status_of(
                      {Code::kConflict, fmt::format("another agent of {} attached, from {}",
                                                    hello.node(), stream->peer())}),
                  true);
    }
    FERMATA_ASSIGN(welcome, stream->announce(hello));
  }
  welcome.set_version(options_.version);
  welcome.set_nonce(hello.nonce());
  wire::Signed message;
  message.set_request(welcome.SerializeAsString());
  FERMATA_ASSIGN(*message.mutable_credential(),
                 authenticator_.make(wire::kAttach, message.request()));
  return message;
}

void AgentStreams::ended(AgentStream& stream) {
  const std::lock_guard lock(names_);
  const auto named = by_node_.find(stream.node());
  if (named != by_node_.end() && named->second.get() == &stream) by_node_.erase(named);
  all_.erase(&stream);
}

std::shared_ptr<AgentStream> AgentStreams::find(const std::string& node) const {
  const std::shared_lock lock(names_);
  const auto found = by_node_.find(node);
  return found == by_node_.end() ? nullptr : found->second;
}

void AgentStreams::send(const std::string& node, wire::Order order, Fleet::Answer answer) {
  const auto stream = find(node);
  if (stream && stream->send(std::move(order), answer)) return;
  later_.post([node, answer = std::move(answer)] {
    answer(failure(Code::kGone, fmt::format("no agent of {} is attached", node)));
  });
}

void AgentStreams::tell(const std::string& node, wire::ExchangeDown message) {
  if (const auto stream = find(node)) stream->tell(std::move(message));
}

bool AgentStreams::attached(const std::string& node) const {
  const auto stream = find(node);
  return stream && !stream->ended();
}

}  // namespace fermata::coord
