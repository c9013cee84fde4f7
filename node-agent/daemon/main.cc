// fermata-agentd: the agent of a node. Runs as root, one on each node; the coordinator's hands.
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "common/daemon.h"
#include "common/log.h"
#include "common/munge.h"
#include "node-agent/agent.h"
#include "node-agent/coordinator_link.h"
#include "node-agent/exchange_tree.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/pod/pod.h"

namespace {

using namespace fermata;  // NOLINT(google-build-using-namespace): this file is the program
using namespace fermata::node_agent;  // NOLINT(google-build-using-namespace)

Status can_work(const Config& config) {
  const std::string missing = pod::missing_capabilities();
  if (!missing.empty()) {
    return {Code::kPermission,
            fmt::format("fermata-agentd runs as root; this process lacks {}", missing)};
  }
  if (config.coordinator.empty()) {
    return {Code::kUsage,
            "there is no coordinator to attach to: set coordinator = \"host:port\" in the config "
            "file, or --coordinator"};
  }
  return isolation::supported();
}

uint32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<uint32_t>(std::max(CPU_COUNT(&set), 1));
}

std::string host_name() {
  utsname host{};
  uname(&host);
  return host.nodename;
}

Status serve(const Config& config) {
  umask(022);
  FERMATA_TRY(can_work(config));
  FERMATA_ASSIGN_STATUS(const UniqueFd signals, take_stop_signals());
  if (chdir("/") != 0) return errno_status(errno, "chdir to /");

  LinkOptions link_options;
  link_options.coordinator = config.coordinator;
  FERMATA_ASSIGN_STATUS(link_options.admins, admins_of(config.slurm_user));
  MungeAuthenticator authenticator(munge_socket(config));

  AgentOptions options;
  options.node = config.node_name.empty() ? host_name() : config.node_name;
  options.run_dir = config.run_dir;
  options.write_bandwidth = config.write_bandwidth;
  options.checkpoint_dir = config.checkpoint_dir.value_or("");
  options.compress = config.compress;
  options.precopy = config.precopy;
  options.stop_goes_on = stop_takes_longer;
  options.slots = config.slots == 0 ? usable_cores() : config.slots;
  // Each speaks to the other; the link is there before the agent has anything to send.
  std::unique_ptr<CoordinatorLink> link;
  std::unique_ptr<ExchangeTree> tree;
  FERMATA_ASSIGN_STATUS(const std::unique_ptr<Agent> agent,
                        Agent::create(options, [&link, &tree](wire::FromAgent message) {
                          if (!link) return false;
                          if (!message.has_exchange()) return link->send(std::move(message));
                          tree->up(std::move(*message.mutable_exchange()));
                          return true;
                        }));
  TreeOptions tree_options;
  tree_options.listen = config.relay_listen;
  tree_options.node = options.node;
  tree_options.link = link_options;
  TreeEvents tree_events;
  tree_events.to_coordinator = [&](wire::ExchangeUp exchange) {
    wire::FromAgent message;
    *message.mutable_exchange() = std::move(exchange);
    link->send(std::move(message));
  };
  tree_events.to_pod = [&](wire::ExchangeDown message) { agent->exchange(std::move(message)); };
  tree = std::make_unique<ExchangeTree>(tree_options, authenticator, tree_events);
  LinkEvents events;
  events.hello = [&] {
    wire::Hello hello = agent->hello();
    hello.set_relay(tree->address());
    return hello;
  };
  events.attached = [&](const wire::Welcome& welcome) {
    agent->attached(welcome);
    tree->coordinator_back();
  };
  events.order = [&](wire::Order order) { agent->order(std::move(order)); };
  events.exchange = [&](wire::ExchangeDown message) { tree->down(std::move(message)); };
  events.lost = [&](const Status&) { agent->lost(); };
  link = std::make_unique<CoordinatorLink>(link_options, authenticator, events);
  if (const Status listens = tree->start(); !listens) {
    log_warning(fmt::format("no agent can be below this one: {}", listens.message()));
  }
  agent->adopt();
  link->start();
  log_info(fmt::format("fermata-agentd " FERMATA_VERSION " on {}, {} slots, coordinator {}",
                       options.node, options.slots, config.coordinator));

  serve_until_stopped(signals);
  log_info("ends; pods run on");
  tree->stop();
  link->stop();
  return Status::ok();
}

}  // namespace

int main(int argc, char** argv) {
  std::string coordinator;
  Daemon daemon;
  daemon.name = "fermata-agentd";
  daemon.purpose =
      "Fermata's agent: runs, holds and brings back the pods of this node, as the coordinator "
      "orders";
  daemon.add_options = [&](CLI::App& app) {
    app.add_option("--coordinator", coordinator, "The coordinator [of the config file]")
        ->type_name("HOST:PORT");
  };
  daemon.serve = [&](Config config) {
    if (!coordinator.empty()) config.coordinator = coordinator;
    return serve(config);
  };
  return daemon_main(argc, argv, daemon);
}
