#include "node-agent/exchange_tree.h"

#include <fmt/format.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "common/log.h"
#include "coord/server.h"
#include "node-agent/exchange_relay.h"
#include "node-agent/own_address.h"

namespace fermata::node_agent {
namespace {

using Clock = std::chrono::steady_clock;

using StepKey = std::pair<JobStep, uint32_t>;  ///< and start

StepKey key_of(const wire::PodId& pod) { return {JobStep{pod.job(), pod.step()}, pod.start()}; }

}  // namespace

class ExchangeTree::Parts final : public coord::FleetListener {
 public:
  Parts(TreeOptions options, Authenticator& authenticator, TreeEvents events)
      : options_(std::move(options)), authenticator_(authenticator), events_(std::move(events)) {}

  Status start() {
    timer_ = std::thread([this] { run_timers(); });
    coord::ServerOptions server_options;
    server_options.listen = options_.listen;
    server_options.version = options_.link.version;
    server_options.admins = options_.link.admins;
    server_options.checkers = 1;
    auto server = std::make_unique<coord::Server>(server_options, authenticator_);
    FERMATA_TRY(server->start(*this));
    server_ = std::move(server);
    FERMATA_ASSIGN_STATUS(const engine::InetAddress own,
                          own_address_towards(options_.link.coordinator));
    address_ = own.with_port(static_cast<uint16_t>(server_->port())).text();
    return Status::ok();
  }

  std::string address() const { return address_; }

  void up(wire::ExchangeUp message) {
    Out out;
    {
      const std::lock_guard lock(mutex_);
      Step* step = message.has_contribution() ? find(message.pod()) : nullptr;
      if (step == nullptr || !step->relay.has_place()) {
        out.to_coordinator.push_back(std::move(message));
      } else {
        step->child_of.erase(message.pod().pod());
        add(*step, step->relay.take(message), out);
      }
    }
    emit(std::move(out));
  }

  void down(wire::ExchangeDown message) {
    Out out;
    {
      const std::lock_guard lock(mutex_);
      if (message.has_route()) {
        set_route(message, out);
      } else if (Step* step = message.has_gathered() ? find(message.pod()) : nullptr) {
        add(*step, step->relay.take(message.gathered()), out);
        // The pod itself may have asked past the relay.
        if (!step->child_of.contains(message.pod().pod())) {
          out.to_pods.push_back(std::move(message));
        }
      } else {
        out.to_pods.push_back(std::move(message));
      }
    }
    emit(std::move(out));
  }

  void coordinator_back() {
    Out out;
    {
      const std::lock_guard lock(mutex_);
      for (auto& [key, step] : steps_) {
        if (step.goes_to_coordinator()) add(step, step.relay.repeat(), out);
      }
    }
    emit(std::move(out));
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    if (timer_.joinable()) timer_.join();
    std::map<std::string, std::shared_ptr<CoordinatorLink>> links;
    {
      const std::lock_guard lock(mutex_);
      links.swap(links_);
    }
    for (auto& [address, link] : links) link->stop();
    if (server_) server_->stop();
  }

  // ---- of the agents below

  Result<wire::Welcome> agent_attached(const wire::Hello&) override { return wire::Welcome(); }
  void agent_lost(const std::string&) override {}
  void pod_ended(const std::string&, const wire::PodEnded&) override {}
  void exchange(const std::string& node, const wire::ExchangeUp& message) override {
    if (!message.has_contribution()) return;
    Out out;
    {
      const std::lock_guard lock(mutex_);
      Step& step = find_or_make(message.pod());
      // Routes go out to all agents of a step at once: this node's may be under way.
      if (!step.relay.has_place() && !step.forget_at) {
        step.forget_at = Clock::now() + options_.unrouted;
        changed_.notify_all();
      }
      step.child_of[message.pod().pod()] = node;
      add(step, step.relay.take(message), out);
    }
    emit(std::move(out));
  }

 private:
  struct Step {
    explicit Step(const StepKey& key) : relay(key.first, key.second) {}
    ExchangeRelay relay;
    std::string parent;  ///< address; empty: the coordinator
    bool alone = false;  ///< the agent above does not answer
    /// When it will be gone round.
    std::optional<Clock::time_point> alone_at;
    /// When what waits is sent on.
    std::optional<Clock::time_point> flush_at;
    /// A step without a route is over, or was never one of this node's.
    std::optional<Clock::time_point> forget_at;
    /// Pods that agents below speak for, and their nodes.
    std::map<uint32_t, std::string> child_of;

    bool goes_to_coordinator() const { return parent.empty() || alone; }
  };
  struct Out {
    std::vector<wire::ExchangeUp> to_coordinator;
    std::vector<std::pair<std::shared_ptr<CoordinatorLink>, wire::ExchangeUp>> to_parents;
    std::vector<wire::ExchangeDown> to_pods;
    std::vector<std::pair<std::string, wire::ExchangeDown>> to_children;
  };

  Step* find(const wire::PodId& pod) {
    const auto found = steps_.find(key_of(pod));
    return found == steps_.end() ? nullptr : &found->second;
  }
  Step& find_or_make(const wire::PodId& pod) {
    const StepKey key = key_of(pod);
    return steps_.try_emplace(key, key).first->second;
  }

  void add(Step& step, ExchangeRelay::Out from, Out& out) {
    for (wire::ExchangeUp& up : from.up) {
      if (step.goes_to_coordinator()) {
        out.to_coordinator.push_back(std::move(up));
      } else if (const auto link = links_.find(step.parent); link != links_.end()) {
        // Dropped where its stream does not stand: said again when it does.
        out.to_parents.emplace_back(link->second, std::move(up));
      }
    }
    for (wire::ExchangeDown& down : from.down) {
      const auto child = step.child_of.find(down.pod().pod());
      if (child == step.child_of.end()) {
        out.to_pods.push_back(std::move(down));
      } else {
        out.to_children.emplace_back(child->second, std::move(down));
      }
    }
    if (!step.flush_at && step.relay.waits()) {
      step.flush_at = Clock::now() + options_.together;
      changed_.notify_all();
    }
  }

  void emit(Out out) {
    for (wire::ExchangeUp& up : out.to_coordinator) events_.to_coordinator(std::move(up));
    for (auto& [link, up] : out.to_parents) {
      wire::FromAgent message;
      *message.mutable_exchange() = std::move(up);
      link->send(std::move(message));
    }
    for (wire::ExchangeDown& down : out.to_pods) events_.to_pod(std::move(down));
    for (auto& [node, down] : out.to_children) server_->tell(node, std::move(down));
  }

  void set_route(const wire::ExchangeDown& message, Out& out) {
    const auto& below = message.route().below();
    if (below.empty()) {
      steps_.erase(key_of(message.pod()));
      changed_.notify_all();  // a stream may be idle now
      return;
    }
    Step& step = find_or_make(message.pod());
    step.forget_at.reset();
    step.relay.set_place(message.pod().pod(), {below.begin(), below.end()});
    if (step.parent != message.route().parent()) {
      step.parent = message.route().parent();
      step.alone = false;
      step.alone_at.reset();
      if (!step.parent.empty()) begin_link(step);
    }
    add(step, step.relay.repeat(), out);
  }

  /// A stream to the step's parent, unless there is one.
  void begin_link(Step& step) {
    auto& link = links_[step.parent];
    if (!link) {
      LinkOptions options = options_.link;
      options.coordinator = step.parent;
      options.peer = "the agent above";
      const std::string parent = step.parent;
      link = std::make_shared<CoordinatorLink>(
          std::move(options), authenticator_,
          LinkEvents{.hello =
                         [this] {
                           wire::Hello hello;
                           hello.set_node(options_.node);
                           return hello;
                         },
                     .attached = [this, parent](const wire::Welcome&) { parent_back(parent); },
                     .order = [](const wire::Order&) {},  // orders are the coordinator's
                     .exchange =
                         [this](wire::ExchangeDown message) {
                           // Routes and all else are the coordinator's to tell.
                           if (message.has_gathered()) down(std::move(message));
                         },
                     .lost = [this, parent](const Status&) { parent_lost(parent); }});
      link->start();
    }
    if (!link->attached()) {
      step.alone_at = Clock::now() + options_.patience;
      changed_.notify_all();
    }
  }

  void parent_back(const std::string& parent) {
    Out out;
    {
      const std::lock_guard lock(mutex_);
      for (auto& [key, step] : steps_) {
        if (step.parent != parent) continue;
        step.alone = false;
        step.alone_at.reset();
        add(step, step.relay.repeat(), out);
      }
    }
    emit(std::move(out));
  }

  void parent_lost(const std::string& parent) {
    const std::lock_guard lock(mutex_);
    for (auto& [key, step] : steps_) {
      if (step.parent == parent) step.alone_at = Clock::now() + options_.patience;
    }
    changed_.notify_all();
  }

  void run_timers() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      Out out;
      const std::optional<Clock::time_point> next = check_deadlines(Clock::now(), out);
      auto idle = take_idle_links();
      lock.unlock();
      emit(std::move(out));
      for (auto& link : idle) link->stop();
      idle.clear();
      lock.lock();
      if (stopping_) break;
      if (next) {
        changed_.wait_until(lock, *next);
      } else {
        changed_.wait(lock);
      }
    }
  }

  /// Does what is due; when to look again.
  std::optional<Clock::time_point> check_deadlines(Clock::time_point now, Out& out) {
    std::optional<Clock::time_point> next;
    const auto later = [&next](const std::optional<Clock::time_point>& when) {
      if (when && (!next || *when < *next)) next = when;
    };
    for (auto& [key, step] : steps_) {
      if (step.alone_at && *step.alone_at <= now) {
        log_warning(
            fmt::format("step {}: the agent at {} does not answer; its share of the "
                        "collectives goes to the coordinator directly",
                        to_string(key.first), step.parent));
        step.alone_at.reset();
        step.alone = true;
        add(step, step.relay.repeat(), out);
      }
      if (step.flush_at && *step.flush_at <= now) {
        step.flush_at.reset();
        add(step, step.relay.flush(), out);
      }
      later(step.alone_at);
      later(step.flush_at);
      later(step.forget_at);
    }
    std::erase_if(steps_, [now](const auto& entry) {
      return entry.second.forget_at && *entry.second.forget_at <= now;
    });
    return next;
  }

  std::vector<std::shared_ptr<CoordinatorLink>> take_idle_links() {
    std::set<std::string> used;
    for (const auto& [key, step] : steps_) used.insert(step.parent);
    std::vector<std::shared_ptr<CoordinatorLink>> idle;
    for (auto link = links_.begin(); link != links_.end();) {
      if (used.contains(link->first)) {
        ++link;
      } else {
        idle.push_back(std::move(link->second));
        link = links_.erase(link);
      }
    }
    return idle;
  }

  const TreeOptions options_;
  Authenticator& authenticator_;
  const TreeEvents events_;
  std::unique_ptr<coord::Server> server_;
  std::string address_;
  std::thread timer_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::map<StepKey, Step> steps_;
  std::map<std::string, std::shared_ptr<CoordinatorLink>> links_;  ///< by address
};

ExchangeTree::ExchangeTree(TreeOptions options, Authenticator& authenticator, TreeEvents events)
    : parts_(std::make_unique<Parts>(std::move(options), authenticator, std::move(events))) {}
ExchangeTree::~ExchangeTree() { stop(); }

Status ExchangeTree::start() { return parts_->start(); }
std::string ExchangeTree::address() const { return parts_->address(); }
void ExchangeTree::up(wire::ExchangeUp message) { parts_->up(std::move(message)); }
void ExchangeTree::down(wire::ExchangeDown message) { parts_->down(std::move(message)); }
void ExchangeTree::coordinator_back() { parts_->coordinator_back(); }
void ExchangeTree::stop() { parts_->stop(); }

}  // namespace fermata::node_agent
