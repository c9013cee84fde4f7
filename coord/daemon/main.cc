// fermata-coordd: the coordinator. One in a cluster; it tends the jobs of all nodes.
#include <fmt/format.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "common/log.h"
#include "common/munge.h"
#include "coord/server.h"
#include "coord/service.h"
#include "coord/store.h"

namespace {

using namespace fermata;         // NOLINT(google-build-using-namespace): this file is the program
using namespace fermata::coord;  // NOLINT(google-build-using-namespace)

int fail(const Status& status) {
  log_error(status.message());
  return exit_code_of(status.code());
}

/// SIGTERM, SIGINT: blocked in all threads, read here.
Result<UniqueFd> take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return errno_failure(errno, "sigmask");
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC));
  if (!fd) return errno_failure(errno, "signalfd");
  return fd;
}

Status serve(const Config& config) {
  if (geteuid() != 0) {
    return {Code::kPermission,
            "fermata-coordd runs as root: it reads and writes checkpoint folders as their owners"};
  }
  FERMATA_ASSIGN_STATUS(const UniqueFd signals, take_signals());
  FERMATA_ASSIGN_STATUS(const std::unique_ptr<Store> store, Store::open(config.state_dir));
  ServerOptions server_options;
  server_options.listen = config.listen;
  FERMATA_ASSIGN_STATUS(server_options.admins, admins_of(config.slurm_user));
  MungeAuthenticator authenticator(munge_socket(config));
  ServiceOptions options;
  options.max_writers = config.max_writers;
  options.job.node_grace = config.node_grace;

  Server server(server_options, authenticator);
  Service service(server, *store, options);
  // Jobs first: agents that come find them.
  FERMATA_TRY(service.adopt());
  FERMATA_TRY(server.start(service, service));
  sd_notify(0, "READY=1");
  log_info(fmt::format("fermata-coordd " FERMATA_VERSION " listens on {}", config.listen));

  signalfd_siginfo info{};
  while (read(signals.get(), &info, sizeof info) < 0 && errno == EINTR) {
  }
  sd_notify(0, "STOPPING=1");
  log_info("ends; jobs run on");
  // Sets under way are rolled back while the agents can still be told.
  service.stop();
  server.stop();
  return Status::ok();
}

int run_main(int argc, char** argv) {
  CLI::App app{"Fermata's coordinator: tends the jobs of all nodes", "fermata-coordd"};
  app.set_version_flag("--version", "fermata-coordd " FERMATA_VERSION);
  std::string config_file;
  app.add_option("--config", config_file,
                 "The config file [$FERMATA_CONFIG, /etc/fermata/fermata.toml]")
      ->type_name("FILE");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code_of(Code::kUsage);
  }
  const Result<Config> config = config_file.empty() ? load_config() : load_config(config_file);
  if (!config) return fail(config.error());
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
