// One stream of an agent: a reactor of gRPC's callback API. Behind AgentStreams; needs gRPC's
// headers.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "coord/fleet.h"

namespace fermata::coord {

class AgentStream;

/// Who keeps the streams.
class StreamKeeper {
 public:
  StreamKeeper() = default;
  StreamKeeper(const StreamKeeper&) = delete;
  StreamKeeper& operator=(const StreamKeeper&) = delete;
  virtual ~StreamKeeper() = default;

  /// The first message of a stream; it is read no further until welcome(). Must not block.
  virtual void said_hello(const std::shared_ptr<AgentStream>& stream, wire::Signed hello) = 0;
  /// Once for each stream, after everything else.
  virtual void ended(AgentStream& stream) = 0;
};

/// Thread-safe. It lives until gRPC is done with it and nobody holds it any more.
class AgentStream final : public grpc::ServerBidiReactor<wire::FromAgent, wire::ToAgent>,
                          public std::enable_shared_from_this<AgentStream> {
 public:
  /// Neither is owned; both outlive all streams. `peer`: its address, for sentences.
  AgentStream(StreamKeeper& keeper, FleetListener& listener, std::string peer);

  /// Begins to read; who says no hello within that time is refused.
  void begin(std::chrono::milliseconds hello_within);

  const std::string& peer() const { return peer_; }
  /// Empty before set_node(). Both are called with the keeper's lock on its names held, or by who
  /// has found the stream by its name.
  const std::string& node() const { return node_; }
  void set_node(std::string node) { node_ = std::move(node); }

  /// Tells the listener of the stream; kGone when it ended before.
  Result<wire::Welcome> announce(const wire::Hello& hello);
  /// The first message out; what was sent before follows it, and reading goes on.
  void welcome(wire::Signed welcome);

  /// False when the stream has ended; `answer` is then as it was.
  bool send(wire::Order order, Fleet::Answer& answer);
  void tell(wire::ExchangeDown message);
  bool ended() const;

  /// Ends it, however often it is called: open orders are answered with kGone, and, with `report`,
  /// the listener told if it knows the stream. From no event of this stream.
  void end(const grpc::Status& status, bool report);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  void take(wire::FromAgent& message);
  void queue(std::unique_ptr<wire::ToAgent> message);
  void write_next();

  StreamKeeper& keeper_;
  FleetListener& listener_;
  const std::string peer_;
  std::string node_;
  std::shared_ptr<AgentStream> self_;  ///< until OnDone()
  grpc::Alarm hello_alarm_;

  /// Held while the listener hears of this stream: one event at a time, and none after the end.
  std::mutex events_;
  bool announced_ = false;
  bool detached_ = false;

  /// Guards what is below; no call leaves this class with it held, but those to gRPC.
  mutable std::mutex queue_mutex_;
  bool greeted_ = false;   ///< the hello has come
  bool welcomed_ = false;  ///< the Welcome is out or being written: orders may follow
  bool finished_ = false;
  bool report_ = false;  ///< finished_: the listener is told
  bool writing_ = false;
  std::deque<std::unique_ptr<wire::ToAgent>> queue_;
  std::unique_ptr<wire::ToAgent> outgoing_;  ///< gRPC's until OnWriteDone()
  uint64_t last_order_ = 0;
  std::unordered_map<uint64_t, Fleet::Answer> open_;

  wire::FromAgent incoming_;  ///< gRPC's until OnReadDone()
};

}  // namespace fermata::coord
