#include "tests/unit/coord/fake_fleet.h"

#include <fmt/format.h>
#include <netinet/in.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "coord/wire.h"
#include "proto/outcome.h"
#include "storage/image.h"

namespace fermata::coord {
namespace {

namespace fs = std::filesystem;

std::string name_of(const wire::Order& order) {
  switch (order.kind_case()) {
    case wire::Order::kLaunch:
      return "launch";
    case wire::Order::kPhase:
      return fmt::format("phase {}", phase_name(static_cast<Phase>(order.phase().phase())));
    case wire::Order::kRollBack:
      return "roll back";
    case wire::Order::kEndJob:
      return "end job";
    case wire::Order::kAble:
      return "able";
    case wire::Order::kRestore:
      return "restore";
    case wire::Order::kConnect:
      return "connect";
    case wire::Order::kGo:
      return "go";
    case wire::Order::kSignal:
      return fmt::format("signal {}", order.signal().signal());
    case wire::Order::kDestroy:
      return "destroy";
    case wire::Order::kPassTerm:
      return order.pass_term().hold_ms() > 0 ? "hold term" : "pass term";
    default:
      return "?";
  }
}

}  // namespace

FakeFleet::FakeFleet() : thread_([this](const std::stop_token& stop) { serve(stop); }) {}
FakeFleet::~FakeFleet() = default;

void FakeFleet::later(std::chrono::milliseconds delay, std::function<void()> what) {
  const std::lock_guard lock(mutex_);
  queue_.emplace(Clock::now() + delay, std::move(what));
  changed_.notify_all();
}

void FakeFleet::serve(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (queue_.empty()) {
      changed_.wait(lock, stop, [&] { return !queue_.empty(); });
      continue;
    }
    const Clock::time_point next = queue_.begin()->first;
    if (Clock::now() < next) {
      changed_.wait_until(lock, stop, next, [&] { return queue_.begin()->first < next; });
      continue;
    }
    const std::function<void()> what = std::move(queue_.begin()->second);
    queue_.erase(queue_.begin());
    lock.unlock();
    what();
    lock.lock();
  }
}

void FakeFleet::set_listener(FleetListener* listener) {
  const std::lock_guard calling(calling_);
  const std::lock_guard lock(mutex_);
  listener_ = listener;
  if (listener != nullptr) return;
  for (auto& [name, node] : nodes_) {
    node.attached = false;
    node.open.clear();
  }
}

wire::Welcome FakeFleet::attach(const std::string& name, uint32_t slots) {
  const std::lock_guard calling(calling_);
  wire::Hello hello;
  FleetListener* listener = nullptr;
  {
    const std::lock_guard lock(mutex_);
    Node& node = nodes_[name];
    node.slots = slots;
    node.attached = true;
    hello.set_node(name);
    hello.set_slots(slots);
    hello.set_version("test");
    hello.add_interfaces()->set_address(address_of(name, 0));
    for (const PodId& pod : node.pods) *hello.add_pods()->mutable_id() = to_wire(pod);
    listener = listener_;
  }
  if (listener == nullptr) return {};
  return listener->agent_attached(hello).value_or(wire::Welcome());
}

void FakeFleet::lose(const std::string& name) {
  const std::lock_guard calling(calling_);
  std::map<uint64_t, Answer> open;
  FleetListener* listener = nullptr;
  {
    const std::lock_guard lock(mutex_);
    nodes_[name].attached = false;
    open.swap(nodes_[name].open);
    listener = listener_;
  }
  for (auto& [id, answer] : open) answer(failure(Code::kGone, "the agent is gone"));
  if (listener != nullptr) listener->agent_lost(name);
}

void FakeFleet::add_pod(const std::string& name, const PodId& pod) {
  const std::lock_guard lock(mutex_);
  nodes_[name].pods.insert(pod);
}

void FakeFleet::lose_pods(const std::string& name) {
  const std::lock_guard lock(mutex_);
  nodes_[name].pods.clear();
}

bool FakeFleet::attached(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(name);
  return found != nodes_.end() && found->second.attached;
}

void FakeFleet::send(const std::string& name, wire::Order order, Answer answer) {
  {
    const std::lock_guard lock(mutex_);
    const uint64_t id = ++last_order_;
    order.set_id(id);
    Node& node = nodes_[name];
    if (node.attached) {
      orders_.push_back(
          fmt::format("{} {} {}", name, name_of(order), to_string(from_wire(order.pod()))));
      node.sent.push_back(order);
      if (silent_ && silent_(name, order)) {
        node.open[id] = std::move(answer);
        return;
      }
    }
  }
  later(std::chrono::milliseconds(0),
        [this, name, order = std::move(order), answer = std::move(answer)] {
          handle(name, order, answer);
        });
}

void FakeFleet::tell(const std::string& node, wire::ExchangeDown message) {
  const std::lock_guard lock(mutex_);
  told_.emplace_back(node, std::move(message));
}

void FakeFleet::handle(const std::string& name, const wire::Order& order, Answer answer) {
  const PodId pod = from_wire(order.pod());
  wire::Done done;
  done.set_order(order.id());
  done.set_took_ns(1'000'000);
  Status status;
  std::optional<std::pair<int, std::string>> end;
  bool writes = false;
  {
    const std::lock_guard lock(mutex_);
    Node& node = nodes_[name];
    const std::optional<Status> trouble = trouble_ ? trouble_(name, order) : std::nullopt;
    const bool here = node.pods.count(pod) != 0;
    const bool makes = order.has_launch() || order.has_restore();
    if (!node.attached) {
      status = {Code::kGone, "no agent is attached"};
    } else if (trouble) {
      status = *trouble;
    } else if (makes) {
      node.pods.insert(pod);
    } else if (order.has_destroy()) {
      node.pods.erase(pod);
    } else if (!here) {
      status = {Code::kGone, "there is no such pod"};
    } else if (order.has_phase()) {
      status = phase(order, done);
      if (order.phase().phase() == static_cast<uint32_t>(Phase::kWriteBack)) {
        writes = true;
        most_writers_ = std::max(most_writers_, ++writers_);
      }
    } else if (order.has_able()) {
      done.mutable_able()->set_memory_bytes(1000);
      done.mutable_able()->set_processes(2);
      if (pod.pod == 0) add_connections(done);
    } else if (order.has_end_job()) {
      node.pods.erase(pod);
      end = {killed(SIGKILL), ""};
    } else if (order.has_signal() && !(stubborn_ && order.signal().signal() == SIGTERM)) {
      node.pods.erase(pod);
      end = {killed(order.signal().signal()), ""};
    }
    if (order.has_restore()) {
      image::AddressEntry& entry = *done.mutable_addresses()->add_entries();
      entry.set_protocol(6);
      entry.set_from(fmt::format("old of pod {}", pod.pod));
      entry.set_to("new");
      done.add_notes("a file has grown");
    }
  }
  *done.mutable_outcome() = wire::to_outcome(status);
  if (writes) {
    later(write_time_, [this, answer = std::move(answer), done] {
      {
        const std::lock_guard lock(mutex_);
        --writers_;
      }
      answer(done);
    });
  } else if (status.code() == Code::kGone) {
    answer(Failure(status));
  } else {
    answer(done);
  }
  if (end) tell_end(name, pod, end->first, end->second);
}

Status FakeFleet::phase(const wire::Order& order, wire::Done& done) {
  const fs::path folder = order.phase().folder();
  const std::string image = storage::image_file_name(order.pod().pod());
  std::error_code error;
  switch (static_cast<Phase>(order.phase().phase())) {
    case Phase::kPrepare:
      std::ofstream(folder / (image + ".part")) << "image";
      break;
    case Phase::kCapture:
      if (order.pod().pod() == 0) {
        add_connections(done);
      }
      break;
    case Phase::kCommit:
      fs::rename(folder / (image + ".part"), folder / image, error);
      break;
    default:
      break;
  }
  wire::PodReport& report = *done.mutable_report();
  report.set_memory_bytes(100);
  report.set_image_bytes(5);
  report.set_stand_still_ns(2'000'000);
  report.set_image(image);
  report.set_digest(std::string(32, 'a'));
  report.set_time("2026-11-20T21:00:00Z");
  return error ? errno_status(error.value(), "rename") : Status::ok();
}

void FakeFleet::tell_end(const std::string& node, const PodId& pod, int wait_status,
                         const std::string& reason) {
  const std::lock_guard calling(calling_);
  wire::PodEnded ended;
  *ended.mutable_id() = to_wire(pod);
  ended.set_status_known(wait_status >= 0);
  ended.set_wait_status(std::max(wait_status, 0));
  ended.set_reason(reason);
  FleetListener* listener = nullptr;
  {
    const std::lock_guard lock(mutex_);
    listener = listener_;
  }
  if (listener != nullptr) listener->pod_ended(node, ended);
}

void FakeFleet::end_pod(const std::string& node, const PodId& pod, int wait_status,
                        const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    nodes_[node].pods.erase(pod);
  }
  tell_end(node, pod, wait_status, reason);
}

void FakeFleet::exchange(const std::string& node, const wire::ExchangeUp& message) {
  const std::lock_guard calling(calling_);
  FleetListener* listener = nullptr;
  {
    const std::lock_guard lock(mutex_);
    listener = listener_;
  }
  listener->exchange(node, message);
}

void FakeFleet::set_trouble(Trouble trouble) {
  const std::lock_guard lock(mutex_);
  trouble_ = std::move(trouble);
}

void FakeFleet::set_silent(std::function<bool(const std::string&, const wire::Order&)> silent) {
  const std::lock_guard lock(mutex_);
  silent_ = std::move(silent);
}

void FakeFleet::set_write_time(std::chrono::milliseconds time) {
  const std::lock_guard lock(mutex_);
  write_time_ = time;
}

void FakeFleet::set_stubborn(bool stubborn) {
  const std::lock_guard lock(mutex_);
  stubborn_ = stubborn;
}

void FakeFleet::add_connections(wire::Done& done) {
  if (connections_left_ == 0) return;
  --connections_left_;
  done.mutable_connections()->Add(connections_.begin(), connections_.end());
}

std::string FakeFleet::address_of(const std::string& node, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(0x0a000000U + static_cast<uint32_t>(std::stoul(node.substr(1))));
  return {reinterpret_cast<const char*>(&address), sizeof address};
}

void FakeFleet::set_connections(std::vector<image::OutsideConnection> connections, int times) {
  const std::lock_guard lock(mutex_);
  connections_left_ = times;
  connections_ = std::move(connections);
}

std::vector<std::string> FakeFleet::orders() const {
  const std::lock_guard lock(mutex_);
  return orders_;
}

std::vector<std::string> FakeFleet::orders_with(const std::string& part) const {
  std::vector<std::string> found = orders();
  std::erase_if(found,
                [&](const std::string& order) { return order.find(part) == std::string::npos; });
  return found;
}

std::vector<wire::Order> FakeFleet::sent(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? std::vector<wire::Order>() : found->second.sent;
}

std::vector<std::pair<std::string, wire::ExchangeDown>> FakeFleet::told() const {
  const std::lock_guard lock(mutex_);
  return told_;
}

std::set<std::string> FakeFleet::pods(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  std::set<std::string> found;
  for (const auto& [name, each] : nodes_) {
    if (!node.empty() && node != name) continue;
    for (const PodId& pod : each.pods) found.insert(to_string(pod));
  }
  return found;
}

int FakeFleet::most_writers() const {
  const std::lock_guard lock(mutex_);
  return most_writers_;
}

}  // namespace fermata::coord
