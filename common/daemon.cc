#include "common/daemon.h"

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>

#include "common/log.h"

namespace fermata {
namespace {

int fail(const Status& status) {
  log_error(status.message());
  return exit_code_of(status.code());
}

int run(int argc, char** argv, const Daemon& daemon) {
  CLI::App app{daemon.purpose, daemon.name};
  app.set_version_flag("--version", daemon.name + " " + FERMATA_VERSION);
  std::string config_file;
  app.add_option("--config", config_file,
                 "The config file [$FERMATA_CONFIG, /etc/fermata/fermata.toml]")
      ->type_name("FILE");
  daemon.add_options(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code_of(Code::kUsage);
  }
  Result<Config> config = config_file.empty() ? load_config() : load_config(config_file);
  if (!config) return fail(config.error());
  init_log(config->log_level, config->log_format);
  const Status served = daemon.serve(std::move(*config));
  return served ? 0 : fail(served);
}

}  // namespace

Result<UniqueFd> take_stop_signals() {
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

void serve_until_stopped(const UniqueFd& signals) {
  sd_notify(0, "READY=1");
  signalfd_siginfo info{};
  while (read(signals.get(), &info, sizeof info) < 0 && errno == EINTR) {
  }
  sd_notify(0, "STOPPING=1");
}

void stop_takes_longer() { sd_notify(0, "EXTEND_TIMEOUT_USEC=60000000"); }

int daemon_main(int argc, char** argv, const Daemon& daemon) {
  try {
    return run(argc, argv, daemon);
  } catch (const std::exception& error) {
    return fail({Code::kInternal, std::string("internal error: ") + error.what()});
  }
}

}  // namespace fermata
