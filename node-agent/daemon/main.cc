// fermata-agentd: the agent of a node. Runs as root, one on each node; the coordinator's hands.
#include <fmt/format.h>
#include <sched.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>

#include "common/log.h"
#include "common/munge.h"
#include "node-agent/agent.h"
#include "node-agent/coordinator_link.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/pod/pod.h"

namespace {

using namespace fermata;  // NOLINT(google-build-using-namespace): this file is the program
using namespace fermata::node_agent;  // NOLINT(google-build-using-namespace)

int fail(const Status& status) {
  log_error(status.message());
  return exit_code_of(status.code());
}

/// SIGTERM, SIGINT: blocked in all threads, read here. The pods' processes start with none blocked.
Result<UniqueFd> take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return errno_failure(errno, "sigmask");
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC));
  if (!fd) return errno_failure(errno, "signalfd");
  return fd;
}

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
  FERMATA_ASSIGN_STATUS(const UniqueFd signals, take_signals());
  if (chdir("/") != 0) return errno_status(errno, "chdir to /");

  LinkOptions link_options;
  link_options.coordinator = config.coordinator;
  FERMATA_ASSIGN_STATUS(link_options.admins, admins_of(config.slurm_user));
  MungeAuthenticator authenticator(munge_socket(config));

  AgentOptions options;
  options.node = config.node_name.empty() ? host_name() : config.node_name;
  options.run_dir = config.run_dir;
  options.slots = config.slots == 0 ? usable_cores() : config.slots;
  // Each speaks to the other; the link is there before the agent has anything to send.
  std::unique_ptr<CoordinatorLink> link;
  FERMATA_ASSIGN_STATUS(const std::unique_ptr<Agent> agent,
                        Agent::create(options, [&link](wire::FromAgent message) {
                          return link && link->send(std::move(message));
                        }));
  LinkEvents events;
  events.hello = [&] { return agent->hello(); };
  events.attached = [&](const wire::Welcome& welcome) { agent->attached(welcome); };
  events.order = [&](wire::Order order) { agent->order(std::move(order)); };
  events.exchange = [&](wire::ExchangeDown message) { agent->exchange(std::move(message)); };
  events.lost = [&](const Status&) { agent->lost(); };
  link = std::make_unique<CoordinatorLink>(link_options, authenticator, events);
  agent->adopt();
  link->start();
  sd_notify(0, "READY=1");
  log_info(fmt::format("fermata-agentd " FERMATA_VERSION " on {}, {} slots, coordinator {}",
                       options.node, options.slots, config.coordinator));

  signalfd_siginfo info{};
  while (read(signals.get(), &info, sizeof info) < 0 && errno == EINTR) {
  }
  sd_notify(0, "STOPPING=1");
  log_info("ends; pods run on");
  link->stop();
  return Status::ok();
}

int run_main(int argc, char** argv) {
  CLI::App app{
      "Fermata's agent: runs, holds and brings back the pods of this node, as the coordinator "
      "orders",
      "fermata-agentd"};
  app.set_version_flag("--version", "fermata-agentd " FERMATA_VERSION);
  std::string config_file;
  std::string coordinator;
  app.add_option("--config", config_file,
                 "The config file [$FERMATA_CONFIG, /etc/fermata/fermata.toml]")
      ->type_name("FILE");
  app.add_option("--coordinator", coordinator, "The coordinator [of the config file]")
      ->type_name("HOST:PORT");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code_of(Code::kUsage);
  }
  Result<Config> config = config_file.empty() ? load_config() : load_config(config_file);
  if (!config) return fail(config.error());
  if (!coordinator.empty()) config->coordinator = coordinator;
  init_log(config->log_level, config->log_format);
  const Status served = serve(*config);
  return served ? 0 : fail(served);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_main(argc, argv);
  } catch (const std::exception& error) {
    return fail({Code::kInternal, std::string("internal error: ") + error.what()});
  }
}
