// One node's place in the tree by which the pods of a step gather: contributions of its own pods
// and of the agents below it are put together and sent on to the agent above (or the coordinator),
// and what was gathered goes back the way its parts came. Pure logic for one step, without clock or
// wire; one thread at a time.
//
// It only saves messages: whoever is above takes parts in any number of messages, from anybody,
// again and again. So nothing waits for a part that goes another way, or does not come: flush()
// sends on what is there. Nothing in here is part of a set: a new relay begins empty, and is told
// again what is under way by whoever had told the one before it, as their streams are new.
//
// Memory: of each collective the last gathered blobs, and the parts from below of that and of later
// ones; bounded: what is over is forgotten, touched longest ago first, and a part that there is no
// room for even then is sent on as a failed one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/ids.h"
#include "proto/exchange.pb.h"

namespace fermata::node_agent {

class ExchangeRelay {
 public:
  struct Limits {
    size_t bytes = size_t{256} << 20;   ///< of all parts and blobs that are kept
    size_t message = size_t{32} << 20;  ///< sent up; a single part may be bigger
    size_t collectives = 4096;
    size_t under_way = 4;  ///< of one key: ranks begin the next when they have the one before
  };
  /// What to send: up to whoever is above, down to the pods named, which are pods of this node or
  /// stand for the agents below that said something under their numbers.
  struct Out {
    std::vector<wire::ExchangeUp> up;
    std::vector<wire::ExchangeDown> down;
  };

  ExchangeRelay(JobStep step, uint32_t start) : ExchangeRelay(step, start, Limits()) {}
  ExchangeRelay(JobStep step, uint32_t start, const Limits& limits)
      : step_(step), start_(start), limits_(limits) {}

  /// Before it is called nothing is sent on. `self`: the number under which this node speaks, of
  /// its first pod of the step. `below`: all pods whose contributions come this way: what is sent
  /// on at once, when it is complete.
  void set_place(uint32_t self, std::set<uint32_t> below) {
    self_ = self;
    below_ = std::move(below);
  }
  bool has_place() const { return self_.has_value(); }

  /// A contribution from below.
  Out take(const wire::ExchangeUp& message);
  /// From above.
  Out take(const wire::Gathered& gathered);
  /// Sends on what still waits for other parts.
  Out flush();
  /// Whether something does.
  bool waits() const;
  /// Who is above is new, or has a new stream to us: all that is under way, once more.
  Out repeat();

 private:
  struct Gathering {
    std::map<uint32_t, wire::Part> parts;
    std::set<uint32_t> sent;     ///< pods whose parts were sent on
    std::set<uint32_t> senders;  ///< who wants the answer
  };
  struct Collective {
    std::vector<uint32_t> pods;
    uint64_t completed = 0;
    std::optional<wire::Gathered> gathered;
    std::map<uint64_t, Gathering> gatherings;  ///< from the completed one on
    std::list<std::string>::iterator place;    ///< in order_
  };

  wire::PodId id_of(uint32_t pod) const;
  Collective& collective_of(const wire::Contribution& contribution);
  bool is_complete(const Collective& collective, const Gathering& gathering) const;
  void send_on(const std::string& key, const Collective& collective, uint64_t number,
               Gathering& gathering, Out& out) const;
  void drop_before(Collective& collective, uint64_t number);
  void forget(const std::string& key);
  /// Forgets what is over, but not `but`.
  void make_room(const std::string& but);

  JobStep step_;
  uint32_t start_;
  Limits limits_;
  std::optional<uint32_t> self_;
  std::set<uint32_t> below_;
  size_t bytes_ = 0;
  std::map<std::string, Collective> collectives_;
  std::list<std::string> order_;  ///< keys, the one longest untouched first
};

}  // namespace fermata::node_agent
