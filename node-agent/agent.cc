#include "node-agent/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/term_verdict.h"
#include "node-agent/addresses.h"
#include "node-agent/engine/requirements.h"
#include "node-agent/lazy_restore.h"
#include "node-agent/rank_ends.h"
#include "node-agent/record_file.h"
#include "proto/outcome.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

// For a pod that is quickly gone, whose guard may be there yet.
constexpr seconds kLockPatience{3};
// For pods that lack memory: as long as guards wait, and a bit.
constexpr seconds kGuardsEnd = kGuardPatience + seconds{5};
constexpr std::chrono::milliseconds kLookAgain{10};
// Pods are taken over in some ten milliseconds each; one in trouble shall not hold up the others.
constexpr seconds kAdoptPatience{30};
// A report that went into a stream which was lost so soon after is told again.
constexpr seconds kMayBeLost{30};
// Of Slurm's SIGTERM, for the coordinator's first word.
constexpr std::chrono::milliseconds kTermPatience = kTermVerdict;

Result<UniqueFd> take_run_dir(const std::filesystem::path& run_dir) {
  FERMATA_TRY_RESULT(make_record_folder(run_dir));
  const std::filesystem::path file = run_dir / "agent.lock";
  UniqueFd lock(open(file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return errno_failure(errno, file.string());
  // The guards of lazy restarts have it until the pods of an agent that was killed are gone.
  const bool guarded = PodRegistry(run_dir).any_memory_comes();
  const auto until = steady_clock::now() + (guarded ? kGuardsEnd : kLockPatience);
  while (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK && steady_clock::now() < until) {
      std::this_thread::sleep_for(kLookAgain);
      continue;
    }
    return failure(Code::kBusy,
                   fmt::format("{}: another fermata-agentd runs with this run_dir, or one was "
                               "killed and its guards (processes fermata-guard) still end the pods "
                               "whose memory it read: pgrep -l fermata",
                               run_dir.string()));
  }
  return lock;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::create(AgentOptions options, Send send) {
  FERMATA_ASSIGN(UniqueFd lock, take_run_dir(options.run_dir));
  wire::Hello self;
  self.set_node(options.node);
  self.set_slots(options.slots);
  FERMATA_ASSIGN(*self.mutable_machine(), engine::requirements_of_this_machine());
  std::unique_ptr<Agent> agent(
      new Agent(std::move(options), std::move(send), std::move(lock), std::move(self)));
  FERMATA_TRY_RESULT(agent->open_step_desk());
  return agent;
}

Status Agent::open_step_desk() {
  StepDeskEvents events;
  events.offer = [this](wire::StepOffer offer) { this->offer(std::move(offer)); };
  events.signal = [this](const PodId& pod, uint32_t rank, int signo) {
    if (signo == SIGTERM) return terms_.signalled(pod, rank);
    if (const std::shared_ptr<PodHost> host = host_of(pod)) host->signal_rank(rank, signo);
  };
  events.abandoned = [this](const PodId& pod) {
    if (const std::shared_ptr<PodHost> host = host_of(pod)) host->kill();
  };
  FERMATA_ASSIGN_STATUS(steps_, StepDesk::open(options_.run_dir / "steps", options_.checkpoint_dir,
                                               std::move(events)));
  return {};
}

HeldTerms::Events Agent::term_events() {
  HeldTerms::Events events;
  events.ask = [this](const PodId& pod) {
    wire::FromAgent message;
    *message.mutable_term()->mutable_id() = wire::to_wire(pod);
    return send_(std::move(message));
  };
  events.pass_on = [this](const PodId& pod, uint32_t rank) {
    if (const std::shared_ptr<PodHost> host = host_of(pod)) host->signal_rank(rank, SIGTERM);
  };
  events.note = [this](const PodId& pod, const std::set<uint32_t>& ranks) {
    registry_.note_held_terms(pod, ranks);
  };
  return events;
}

void Agent::offer(wire::StepOffer offer) {
  wire::FromAgent message;
  *message.mutable_step() = std::move(offer);
  // Without a stream it is said when there is one.
  send_(std::move(message));
}

Agent::Agent(AgentOptions options, Send send, UniqueFd lock, wire::Hello self)
    : options_(std::move(options)),
      send_(std::move(send)),
      lock_(std::move(lock)),
      self_(std::move(self)),
      registry_(options_.run_dir),
      terms_(kTermPatience, term_events()) {
  collector_ = std::thread([this] { collect(); });
}

Agent::~Agent() {
  terms_.coordinator_lost();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  collector_.join();
  std::map<PodId, std::shared_ptr<PodHost>> hosts;
  {
    const std::lock_guard lock(mutex_);
    hosts = std::move(hosts_);
  }
  hosts.clear();  // not under the lock: what their threads still say takes it
  steps_.reset();
}

void Agent::adopt() {
  registry_.tidy();
  std::vector<PodId> adopted;
  for (PodRecord& record : registry_.all()) {
    const PodId id = record.id;
    if (record.stubs) {
      steps_->expect(id, record.ranks_here(), record.owner.uid, record.stub_processes);
      for (const auto& [rank, status] : read_rank_ends(registry_.ends_of(id)).statuses) {
        steps_->rank_ended(id, rank, status);
      }
    }
    if (record.ended) {
      if (record.stubs) steps_->pod_over(id, record.wait_status);
      tell(report_of(record));
      continue;
    }
    log_info(fmt::format("taking over pod {}", to_string(id)));
    auto host = std::make_shared<PodHost>(std::move(record), settings_of_pods(), events());
    adopted.push_back(id);
    const std::lock_guard lock(mutex_);
    hosts_[id] = std::move(host);
  }
  // Before stubs are heard, which may bring new ones.
  std::vector<std::set<uint32_t>> terms;
  for (const PodId& id : adopted) terms.push_back(registry_.held_terms_of(id));
  steps_->begin();
  // The first Hello is to name them.
  const Time deadline = steady_clock::now() + kAdoptPatience;
  for (size_t i = 0; i < adopted.size(); ++i) {
    const PodId& id = adopted[i];
    while (steady_clock::now() < deadline) {
      const std::shared_ptr<PodHost> host = host_of(id);
      if (!host || host->living()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    pass_terms_on(id, terms[i]);
  }
}

void Agent::pass_terms_on(const PodId& pod, const std::set<uint32_t>& ranks) {
  const std::shared_ptr<PodHost> host = host_of(pod);
  if (!host || !host->living()) return;
  for (const uint32_t rank : ranks) host->signal_rank(rank, SIGTERM);
  if (registry_.held_terms_of(pod) == ranks) registry_.note_held_terms(pod, {});
}

PodHostSettings Agent::settings_of_pods() const {
  return {options_.node,     options_.run_dir, options_.write_bandwidth, steps_.get(),
          options_.compress, options_.precopy, options_.stop_goes_on};
}

PodHostEvents Agent::events() {
  PodHostEvents events;
  events.done = [this](wire::Done done) {
    wire::FromAgent message;
    *message.mutable_done() = std::move(done);
    send_(std::move(message));
  };
  events.exchange = [this](wire::ExchangeUp up) {
    wire::FromAgent message;
    *message.mutable_exchange() = std::move(up);
    send_(std::move(message));
  };
  events.over = [this](const PodId& pod, std::optional<wire::PodEnded> report) {
    pod_is_over(pod, std::move(report));
  };
  return events;
}

std::shared_ptr<PodHost> Agent::host_of(const PodId& pod) const {
  const std::lock_guard lock(mutex_);
  const auto found = hosts_.find(pod);
  return found == hosts_.end() || over_.contains(pod) ? nullptr : found->second;
}

std::vector<std::shared_ptr<PodHost>> Agent::all_hosts() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<PodHost>> hosts;
  for (const auto& [id, host] : hosts_) hosts.push_back(host);
  return hosts;
}

std::shared_ptr<PodHost> Agent::new_host(const PodId& pod) {
  auto host = std::make_shared<PodHost>(pod, settings_of_pods(), events());
  std::shared_ptr<PodHost> before;  // over, and destroyed when the lock is given back
  const std::lock_guard lock(mutex_);
  before = std::exchange(hosts_[pod], host);
  over_.erase(pod);
  return host;
}

wire::Hello Agent::hello() const {
  wire::Hello hello = self_;
  if (const Result<std::vector<NodeAddress>> addresses = addresses_of_this_node()) {
    for (const NodeAddress& address : *addresses) {
      wire::Interface& interface = *hello.add_interfaces();
      interface.set_address(address.address.bytes());
      interface.set_prefix(address.prefix);
      interface.set_name(address.name);
    }
  } else {
    log_error(addresses.error().message());
  }
  for (const std::shared_ptr<PodHost>& host : all_hosts()) {
    if (std::optional<wire::LivingPod> pod = host->living()) *hello.add_pods() = *std::move(pod);
  }
  return hello;
}

void Agent::attached(const wire::Welcome& welcome) {
  for (const wire::PodId& id : welcome.unknown()) {
    log_warning(fmt::format("the coordinator knows nothing of pod {}: it runs on, untended",
                            to_string(wire::from_wire(id))));
  }
  std::map<PodId, wire::PodEnded> untold;
  {
    const std::lock_guard lock(mutex_);
    untold = std::exchange(untold_, {});
  }
  for (const auto& [id, report] : untold) tell(report);
  for (const std::shared_ptr<PodHost>& host : all_hosts()) host->coordinator_back();
  steps_->resend();
}

void Agent::answer(const wire::Order& order, const Status& status) const {
  wire::FromAgent message;
  message.mutable_done()->set_order(order.id());
  *message.mutable_done()->mutable_outcome() = wire::to_outcome(status);
  send_(std::move(message));
}

void Agent::order(wire::Order order) {
  const PodId pod = wire::from_wire(order.pod());
  if (order.has_refuse()) {
    steps_->refuse(pod, order.refuse().text(), order.refuse().exit_status());
    answer(order, Status::ok());
    return;
  }
  if (order.has_pass_term()) {
    const bool held = terms_.decided(pod, std::chrono::milliseconds(order.pass_term().hold_ms()));
    answer(order, held ? Status::ok() : Status(Code::kGone, "no SIGTERM is held back here"));
    return;
  }
  std::shared_ptr<PodHost> host = host_of(pod);
  if (!host && (order.has_launch() || order.has_restore())) host = new_host(pod);
  if (host) {
    host->order(std::move(order));
  } else if (order.has_destroy() || order.has_roll_back()) {
    answer(order, Status::ok());  // as it is wanted
  } else {
    answer(order,
           {Code::kNotFound, fmt::format("node {} has no pod {}", options_.node, to_string(pod))});
  }
}

void Agent::exchange(wire::ExchangeDown message) {
  if (const std::shared_ptr<PodHost> host = host_of(wire::from_wire(message.pod()))) {
    host->deliver(std::move(message));
  }
}

void Agent::lost() {
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, told] : told_) {
      if (steady_clock::now() - told.at < kMayBeLost) untold_[id] = std::move(told.report);
    }
    told_.clear();
    ++losses_;
  }
  terms_.coordinator_lost();
  for (const std::shared_ptr<PodHost>& host : all_hosts()) host->coordinator_lost();
}

void Agent::tell(const wire::PodEnded& report) {
  const PodId id = wire::from_wire(report.id());
  uint64_t losses = 0;
  {
    // First: a stream that stands right after this one was found lost is to bring it.
    const std::lock_guard lock(mutex_);
    untold_[id] = report;
    losses = losses_;
  }
  wire::FromAgent message;
  *message.mutable_ended() = report;
  if (!send_(std::move(message))) return;
  {
    const std::lock_guard lock(mutex_);
    if (losses != losses_) return;  // by now that stream is lost
    untold_.erase(id);
    std::erase_if(
        told_, [](const auto& one) { return steady_clock::now() - one.second.at >= kMayBeLost; });
    told_[id] = {report, steady_clock::now()};
  }
  registry_.remove(id);
}

void Agent::pod_is_over(const PodId& pod, std::optional<wire::PodEnded> report) {
  if (report) tell(*report);
  terms_.forget(pod);
  const std::lock_guard lock(mutex_);
  over_.insert(pod);
  changed_.notify_all();
}

void Agent::collect() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !over_.empty(); });
    if (ending_) return;
    std::vector<std::shared_ptr<PodHost>> done;
    for (const PodId& pod : over_) {
      const auto found = hosts_.find(pod);
      if (found == hosts_.end()) continue;
      done.push_back(std::move(found->second));
      hosts_.erase(found);
    }
    over_.clear();
    lock.unlock();
    done.clear();
    lock.lock();
  }
}

}  // namespace fermata::node_agent
