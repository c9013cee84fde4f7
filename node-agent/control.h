// Requests to the process that holds a pod, over the UNIX socket in the job's folder. A request and
// its reply are each a 32-bit length (network order) and a JSON object. Only the job's owner and
// root are answered (SO_PEERCRED, unix(7)). Server and client each on one thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::node_agent {

struct ControlRequest {
  enum class Kind { kCheckpoint, kAble };
  Kind kind = Kind::kCheckpoint;
  bool end_job = false;       ///< checkpoint: end the job once the set is committed
  std::string compress = {};  ///< checkpoint: parse_compression(); empty: as the job has it
  /// checkpoint: so many of the newest sets stay then; 0: all; unset: as the job has it.
  std::optional<uint32_t> keep = {};
};

struct ControlReply {
  Status status;     ///< what became of it; the sentence is for the user
  std::string body;  ///< JSON text: what the command prints with --json
};

/// One request that waits for its reply.
class ControlCall {
 public:
  ControlCall(UniqueFd socket, ControlRequest request)
      : request_(std::move(request)), socket_(std::move(socket)) {}

  const ControlRequest& request() const { return request_; }
  /// Sends the reply. A client that has gone is no failure of ours.
  void reply(const ControlReply& reply);

 private:
  ControlRequest request_;
  UniqueFd socket_;
};

class ControlServer {
 public:
  /// Listens at `path`; a socket that a dead server left there is replaced.
  static Result<ControlServer> listen(const std::filesystem::path& path, uid_t owner);

  /// Readable (poll) when somebody calls.
  int fd() const { return socket_.get(); }
  /// Takes the next call. nullopt: there was none, or it was refused or malformed, and answered so.
  std::optional<ControlCall> accept();

 private:
  ControlServer(UniqueFd socket, uid_t owner) : socket_(std::move(socket)), owner_(owner) {}

  UniqueFd socket_;
  uid_t owner_;
};

/// Sends a request and waits for its reply as long as the server lives. kGone: nobody is at the
/// socket, or the server died before it replied.
Result<ControlReply> ask(const std::filesystem::path& path, const ControlRequest& request);

}  // namespace fermata::node_agent
