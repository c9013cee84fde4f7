// Exchange with the step's other pods by files in the pod's own /dev/shm, which the agent carries
// (node-agent/exchange_folder.h): no descriptor leaves the pod, and the files are captured with it.
//
// Nothing that lies in an agent or the coordinator at a cut is part of a set, so whatever this pod
// has said stays in its outbox until it cannot be asked for again, and every message may come more
// than once:
// - the part of the n-th collective of a key: until the n+1-th is gathered (a pod that has not
// heard
//   of the n-th can still be waiting for it until then);
// - a request: until it is answered;
// - an answer: until its asker says, in a later request, that it has it;
// - an abort: to the end.
//
// gather(), fetch(), call_names(): any thread. All else: the main loop, which calls read_inbox()
// when the agent's signal has come.
#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "common/status.h"
#include "node-agent/pod/podinit/exchange.h"
#include "node-agent/pod/podinit/mailbox.h"
#include "proto/exchange.pb.h"

namespace fermata::pod {

class FolderExchange final : public Exchange {
 public:
  /// What other pods want of this one. Called on the main loop; the answer may come on any thread.
  struct Handlers {
    std::function<void(uint32_t rank, Answer answer)> serve_rank;
    std::function<void(const std::string& call, Answer answer)> serve_names;
    std::function<void(int32_t status, const std::string& reason)> aborted;
    /// The agent knows that this rank has ended.
    std::function<void(uint32_t rank)> end_heard;
    /// A sentence about what goes wrong here.
    std::function<void(const std::string& text)> say;
  };

  FolderExchange(std::filesystem::path out, std::filesystem::path in, Mailbox& mailbox,
                 Handlers handlers);

  void gather(CollectivePart part, GatherAnswer answer) override;
  void fetch(uint32_t rank, Answer answer) override;
  void call_names(uint32_t server, std::string call, Answer answer) override;
  /// To the agent, who keeps it to itself. Stays said to the end.
  void rank_ended(uint32_t rank, int wait_status);
  void abort(int32_t status, const std::string& reason) override;

  /// Takes in and removes all messages of the inbox.
  void read_inbox();

 private:
  struct Waiting {
    uint64_t file = 0;
    GatherAnswer answer;
  };
  struct Collective {
    uint64_t number = 0;  ///< of the last part given
    std::map<uint64_t, Waiting> under_way;
    uint64_t kept = 0;  ///< file of the last that was gathered; 0: none
  };
  struct Request {
    uint64_t file = 0;
    Answer answer;
  };
  using RequestId = std::pair<uint32_t, uint64_t>;  ///< asker, number

  void contribute(const CollectivePart& part, GatherAnswer answer);
  void ask(wire::FetchRequest request, Answer answer);
  void take(const wire::ExchangeDown& message);
  void take_gathered(const wire::Gathered& gathered);
  void take_fetched(const wire::FetchReply& reply);
  void serve(const wire::FetchRequest& request);
  void reply(const wire::FetchRequest& request, bool found, const std::string& data);
  void settle(uint32_t asker, uint64_t below);

  /// Name of the new message.
  Result<uint64_t> write(const wire::ExchangeUp& message);
  void remove(uint64_t file);

  std::filesystem::path out_;
  std::filesystem::path in_;
  Mailbox& mailbox_;
  Handlers handlers_;
  uint64_t next_file_ = 1;
  size_t files_ = 0;  ///< in the outbox
  std::map<std::string, Collective> collectives_;
  uint64_t requests_made_ = 0;
  std::map<uint64_t, Request> requests_;  ///< of ours, by number
  std::map<uint32_t, uint64_t> settled_;  ///< by asker: lower numbers are answered
  std::set<RequestId> being_served_;
  std::map<RequestId, uint64_t> replies_;  ///< files of answers given
};

/// Makes the folders of the exchange.
Status make_exchange_folders(const std::filesystem::path& out, const std::filesystem::path& in);

}  // namespace fermata::pod
