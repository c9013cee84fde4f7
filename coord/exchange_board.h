// What the coordinator does for the podinits of one step: it gathers their contributions to
// collectives, carries requests of one pod to another and the answers back, and tells all when one
// aborts the step. Pure logic without clock or wire: a message in, the messages to be sent out. One
// thread at a time.
//
// Messages may be lost, doubled and reordered, as long as each is sent again in the end: a pod's
// agent sends all that its pod has to say whenever its stream is new, and the caller then sends
// what attached() gives. A coordinator that was started anew begins with an empty board. A
// restarted step has a new one, with the new `start`: all its pods stand at one cut, and say again
// what was under way there.
//
// Memory: of each collective (each set of ranks) the last gathered blobs and what has come for
// later ones. A pod that contributes the n-th time has had the n-1-th, so nothing older is kept.
// The sum of all blobs is bounded (Limits): completed collectives are forgotten first, the oldest
// before the others; where what is under way alone is too much, the step is aborted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "proto/exchange.pb.h"

namespace fermata::coord {

class ExchangeBoard {
 public:
  struct Limits {
    size_t bytes = size_t{1} << 30;      ///< of all blobs that are kept
    size_t gathered = size_t{56} << 20;  ///< of one collective, as a message to a pod
    size_t collectives = 4096;           ///< different ones
    size_t requests = 4096;              ///< of one pod, unanswered
  };

  /// `start` as in PodId; `pods` of the step.
  ExchangeBoard(JobStep step, uint32_t start, std::vector<uint32_t> pod_of_rank, uint32_t pods)
      : ExchangeBoard(step, start, std::move(pod_of_rank), pods, Limits()) {}
  ExchangeBoard(JobStep step, uint32_t start, std::vector<uint32_t> pod_of_rank, uint32_t pods,
                const Limits& limits);

  /// A message of a pod; the caller has checked that its node holds that pod. The messages to send,
  /// each to the pod it names. What is none of this step's, or makes no sense, is ignored: it is
  /// the user's.
  std::vector<wire::ExchangeDown> take(const wire::ExchangeUp& message);

  /// What a pod whose agent is attached anew may have missed and does not ask for by itself.
  std::vector<wire::ExchangeDown> attached(uint32_t pod) const;

  /// A pod has ended, well or not: who asks it for something has no answer to wait for.
  std::vector<wire::ExchangeDown> pod_ended(uint32_t pod);

  /// Bytes of blobs kept.
  size_t bytes() const { return bytes_; }

 private:
  using Downs = std::vector<wire::ExchangeDown>;

  /// Ends the step in all its pods. The first call, or the first pod that aborts, decides the
  /// status.
  Downs abort(int32_t status, const std::string& reason);

  /// One collective under way: parts by pod, and who said them. The answer goes back the way they
  /// came: to a pod, or to an agent that relays for several, under the number of its first pod.
  struct Gathering {
    std::map<uint32_t, wire::Part> parts;
    std::set<uint32_t> senders;
  };
  /// All collectives with one key.
  struct Collective {
    std::vector<uint32_t> pods;
    uint64_t completed = 0;  ///< number of the last
    std::optional<wire::Gathered> gathered;
    std::map<uint64_t, Gathering> under_way;
    std::list<std::string>::iterator place;  ///< in order_
  };
  using RequestId = std::pair<uint32_t, uint64_t>;  ///< asker, number

  wire::ExchangeDown to(uint32_t pod) const;
  Downs contribute(uint32_t sender, const wire::Contribution& contribution);
  /// The parts, one for each pod; none where they make no sense.
  std::vector<wire::Part> parts_of(uint32_t sender, const wire::Contribution& contribution) const;
  Downs complete(const std::string& key, Collective& collective, uint64_t number);
  Downs fetch(uint32_t asker, wire::FetchRequest request);
  wire::ExchangeDown not_found(const wire::FetchRequest& request) const;
  Downs served(uint32_t server, const wire::FetchReply& reply);
  Downs tell_all(std::optional<uint32_t> but) const;
  void drop(Collective& collective, std::map<uint64_t, Gathering>::iterator gathering);
  void forget_gathered(Collective& collective);
  /// False when there is no room for what is under way.
  bool make_room();

  JobStep step_;
  uint32_t start_;
  std::vector<uint32_t> pod_of_rank_;
  uint32_t pods_;
  Limits limits_;
  size_t bytes_ = 0;
  std::map<std::string, Collective> collectives_;
  std::list<std::string> order_;  ///< keys, the one longest untouched first
  std::map<RequestId, wire::FetchRequest> requests_;
  std::set<uint32_t> ended_;
  std::optional<wire::AbortRequest> aborted_;
};

}  // namespace fermata::coord
