// What the daemons have in common: command line, config, log, the signals that end them. The main
// thread's alone.
#pragma once

#include <functional>
#include <string>

#include "common/config.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace CLI {
class App;
}

namespace fermata {

/// SIGTERM and SIGINT, from now on blocked in this thread and those it starts, and read here.
/// SIGPIPE and SIGHUP are ignored. Before the first other thread.
Result<UniqueFd> take_stop_signals();
/// Tells systemd that the daemon serves (sd_notify(3)), waits for one of `signals`, and tells it
/// that it stops.
void serve_until_stopped(const UniqueFd& signals);
/// Tells systemd that the stop goes on: it waits a minute more from now, also beyond
/// TimeoutStopSec= (EXTEND_TIMEOUT_USEC of sd_notify(3)). Any thread.
void stop_takes_longer();

struct Daemon {
  std::string name;     ///< of the program
  std::string purpose;  ///< for --help
  /// Options beside --config and --version; none by default.
  std::function<void(CLI::App&)> add_options = [](CLI::App&) {};
  /// The daemon's work, from the start to a stop signal; its error is logged and becomes the exit
  /// code.
  std::function<Status(Config)> serve;
};

/// main(): parses, loads the config, starts the log, serves.
int daemon_main(int argc, char** argv, const Daemon& daemon);

}  // namespace fermata
