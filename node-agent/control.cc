#include "node-agent/control.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "common/compression.h"

namespace fermata::node_agent {
namespace {

using nlohmann::json;

constexpr uint32_t kMaxMessage = 16U << 20;

Result<sockaddr_un> address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  if (text.size() >= sizeof(address.sun_path)) {
    return failure(Code::kUsage, fmt::format("{}: too long for a socket's path", text));
  }
  std::memcpy(address.sun_path, text.c_str(), text.size() + 1);
  return address;
}

Status send_all(int fd, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno_status(Code::kGone, errno, "control socket");
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
  return {};
}

Status receive_all(int fd, std::span<char> bytes) {
  while (!bytes.empty()) {
    const ssize_t received = recv(fd, bytes.data(), bytes.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return errno_status(Code::kGone, errno, "control socket");
    if (received == 0) return {Code::kGone, "control socket: the other side has gone"};
    bytes = bytes.subspan(static_cast<size_t>(received));
  }
  return {};
}

Status send_message(int fd, const json& message) {
  const std::string text = message.dump(-1, ' ', false, json::error_handler_t::replace);
  const uint32_t length = htonl(static_cast<uint32_t>(text.size()));
  std::string packet(sizeof(length), '\0');
  std::memcpy(packet.data(), &length, sizeof(length));
  return send_all(fd, packet + text);
}

Result<json> receive_message(int fd) {
  uint32_t length = 0;
  FERMATA_TRY_RESULT(receive_all(fd, {reinterpret_cast<char*>(&length), sizeof(length)}));
  length = ntohl(length);
  if (length > kMaxMessage) {
    return failure(Code::kUsage, fmt::format("control socket: a message of {} bytes", length));
  }
  std::string text(length, '\0');
  FERMATA_TRY_RESULT(receive_all(fd, text));
  json message = json::parse(text, nullptr, false);
  if (!message.is_object()) return failure(Code::kUsage, "control socket: not a JSON object");
  return message;
}

void send_reply(int fd, const ControlReply& reply) {
  const json message = {{"code", static_cast<int>(reply.status.code())},
                        {"message", reply.status.message()},
                        {"body", reply.body}};
  [[maybe_unused]] const Status sent = send_message(fd, message);
}

Result<ControlRequest> request_of(const json& message) {
  const std::string command = message.value("command", "");
  ControlRequest request;
  if (command == "checkpoint") {
    request.kind = ControlRequest::Kind::kCheckpoint;
    request.end_job = message.value("end_job", false);
    if (message.contains("keep")) request.keep = message["keep"].get<uint32_t>();
    request.compress = message.value("compress", "");
    FERMATA_TRY_RESULT(check_compression(request.compress));
  } else if (command == "able") {
    request.kind = ControlRequest::Kind::kAble;
  } else {
    return failure(Code::kUnsupported,
                   fmt::format("control socket: no command \"{}\" in this version", command));
  }
  return request;
}

void set_timeouts(int fd, time_t seconds) {
  const timeval limit{seconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

}  // namespace

void ControlCall::reply(const ControlReply& reply) { send_reply(socket_.get(), reply); }

Result<ControlServer> ControlServer::listen(const std::filesystem::path& path, uid_t owner) {
  FERMATA_ASSIGN(const sockaddr_un address, address_of(path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_failure(errno, "socket");
  unlink(path.c_str());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      // Anybody may connect; who may ask is decided by SO_PEERCRED.
      chmod(path.c_str(), 0666) != 0 || ::listen(fd.get(), 16) != 0) {
    return errno_failure(errno, path.string());
  }
  return ControlServer(std::move(fd), owner);
}

std::optional<ControlCall> ControlServer::accept() {
  UniqueFd peer(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!peer) return std::nullopt;
  set_timeouts(peer.get(), 2);  // nobody may hold up the job by saying nothing
  ucred who{};
  socklen_t length = sizeof(who);
  if (getsockopt(peer.get(), SOL_SOCKET, SO_PEERCRED, &who, &length) != 0 ||
      (who.uid != 0 && who.uid != owner_)) {
    send_reply(peer.get(), {Status(Code::kPermission,
                                   "the job is another user's; only its owner and root may ask"),
                            ""});
    return std::nullopt;
  }
  try {
    Result<json> message = receive_message(peer.get());
    if (!message) return std::nullopt;
    Result<ControlRequest> request = request_of(*message);
    if (!request) {
      send_reply(peer.get(), {request.error(), ""});
      return std::nullopt;
    }
    return ControlCall(std::move(peer), *request);
  } catch (const json::exception&) {  // a field of another type than ours
    send_reply(peer.get(), {Status(Code::kUsage, "control socket: malformed request"), ""});
    return std::nullopt;
  }
}

Result<ControlReply> ask(const std::filesystem::path& path, const ControlRequest& request) {
  FERMATA_ASSIGN(const sockaddr_un address, address_of(path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Failure(errno_status(Code::kGone, errno, path.string()));
  }
  const bool checkpoint = request.kind == ControlRequest::Kind::kCheckpoint;
  // Who is refused may be answered and cut off before this is sent: the answer is there all the
  // same, and where there is none, receiving says so.
  json words = {{"command", checkpoint ? "checkpoint" : "able"},
                {"end_job", request.end_job},
                {"compress", request.compress}};
  if (request.keep) words["keep"] = *request.keep;
  [[maybe_unused]] const Status sent = send_message(fd.get(), words);
  try {
    FERMATA_ASSIGN(const json message, receive_message(fd.get()));
    const int code = message.at("code").get<int>();
    return ControlReply{Status(static_cast<Code>(code), message.at("message").get<std::string>()),
                        message.at("body").get<std::string>()};
  } catch (const json::exception&) {
    return failure(Code::kInternal, "control socket: malformed reply");
  }
}

}  // namespace fermata::node_agent
