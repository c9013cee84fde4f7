// Nodes, agents and pods that only pretend: they answer orders as real ones do, keep files of the
// size of a word, and can be told to fail, to be slow or to be lost.
#pragma once

#include <sys/wait.h>

#include <chrono>
#include <climits>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "coord/agent.h"
#include "coord/fleet.h"

namespace fermata::coord {

class FakeFleet final : public Fleet {
 public:
  FakeFleet();
  ~FakeFleet() override;

  /// Whose agents these are from now on; null: of nobody, all streams are lost without a word.
  void set_listener(FleetListener* listener);
  /// Says hello with the pods that the node has; returns what it is welcomed with.
  wire::Welcome attach(const std::string& node, uint32_t slots = 4);
  /// The stream is lost: open orders are gone, pods live.
  void lose(const std::string& node);
  /// A pod is there that nobody was told of.
  void add_pod(const std::string& node, const PodId& pod);
  /// The pods of a node are no more, and nobody is told.
  void lose_pods(const std::string& node);

  void send(const std::string& node, wire::Order order, Answer answer) override;
  void tell(const std::string& node, wire::ExchangeDown message) override;
  bool attached(const std::string& node) const override;

  /// What an agent does other than usual: a failure to answer with.
  using Trouble = std::function<std::optional<Status>(const std::string&, const wire::Order&)>;
  void set_trouble(Trouble trouble);
  /// No answer comes to such orders.
  void set_silent(std::function<bool(const std::string&, const wire::Order&)> silent);
  /// How long every write back takes.
  void set_write_time(std::chrono::milliseconds time);
  /// Such a pod does not end by SIGTERM.
  void set_stubborn(bool stubborn);
  /// struct sockaddr of a node: n7 has 10.0.0.7.
  static std::string address_of(const std::string& node, uint16_t port);
  /// After kCapture and kAble, of pod 0; so many times.
  void set_connections(std::vector<image::OutsideConnection> connections, int times = INT_MAX);

  /// A pod ends and its agent tells.
  void end_pod(const std::string& node, const PodId& pod, int wait_status,
               const std::string& reason = "");
  void exchange(const std::string& node, const wire::ExchangeUp& message);

  /// "n1 launch 5.0/0", "n2 phase 3 5.0/1", ... in the order in which they came.
  std::vector<std::string> orders() const;
  std::vector<std::string> orders_with(const std::string& part) const;
  std::vector<wire::Order> sent(const std::string& node) const;
  std::vector<std::pair<std::string, wire::ExchangeDown>> told() const;
  /// "5.0/0+1", on any node or this one.
  std::set<std::string> pods(const std::string& node = "") const;
  int most_writers() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Node {
    uint32_t slots = 4;
    bool attached = false;
    std::set<PodId> pods;
    std::map<uint64_t, Answer> open;  // silent ones
    std::vector<wire::Order> sent;
  };
  void later(std::chrono::milliseconds delay, std::function<void()> what);
  void serve(const std::stop_token& stop);
  void handle(const std::string& node, const wire::Order& order, Answer answer);
  Status phase(const wire::Order& order, wire::Done& done);
  void tell_end(const std::string& node, const PodId& pod, int wait_status,
                const std::string& reason);

  /// Held while the listener is called: it must not go meanwhile. Taken before mutex_.
  std::recursive_mutex calling_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  FleetListener* listener_ = nullptr;
  std::map<std::string, Node> nodes_;
  std::multimap<Clock::time_point, std::function<void()>> queue_;
  Trouble trouble_;
  std::function<bool(const std::string&, const wire::Order&)> silent_;
  std::chrono::milliseconds write_time_{0};
  bool stubborn_ = false;
  void add_connections(wire::Done& done);
  std::vector<image::OutsideConnection> connections_;
  int connections_left_ = 0;
  std::vector<std::string> orders_;
  std::vector<std::pair<std::string, wire::ExchangeDown>> told_;
  uint64_t last_order_ = 0;
  int writers_ = 0;
  int most_writers_ = 0;
  std::jthread thread_;
};

/// wait(2)'s status of an exit, of a death by signal.
constexpr int exited(int status) { return status << 8; }
constexpr int killed(int signo) { return signo; }

}  // namespace fermata::coord
