// The fermata command: reads the command line, runs one subcommand, returns its exit status.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <vector>

#include "cli/command.h"
#include "common/log.h"

namespace {

using namespace fermata;       // NOLINT(google-build-using-namespace): this file is the program
using namespace fermata::cli;  // NOLINT(google-build-using-namespace)

constexpr const char* kFooter =
    "Exit status: 0 done, 1 a bug of Fermata, 2 wrong usage, 3 not permitted, 4 not found,\n"
    "5 an object of the job cannot be held, 6 storage, 7 damaged, 8 unsupported, 9 busy,\n"
    "10 timed out, 11 the job ended meanwhile, 12 the place an object needs is taken.\n"
    "`run` and `restart` return the job's.";

/// What CLI11 has to say about a command line, in our form. --help and --version are no errors.
int tell(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
  const std::vector<std::string> unknown = app.remaining();
  if (app.get_subcommands().empty() && !unknown.empty()) {
    return fail(
        {Code::kUsage, "no command \"" + unknown.front() + "\"; `fermata --help` lists them"});
  }
  return fail({Code::kUsage, std::string(error.what()) + "; `fermata --help` tells how"});
}

void heed_json(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    const CLI::Option* json = command->get_option_no_throw("--json");
    if (json != nullptr && json->count() > 0) tell_failures_as_json();
  }
}

int run_main(int argc, char** argv) {
  // A reader of ours that goes away must not take the job's keeper with it.
  std::signal(SIGPIPE, SIG_IGN);
  // Ignored, as a caller may leave it to us, it would throw away how a job ended (wait(2)).
  std::signal(SIGCHLD, SIG_DFL);

  Invocation invocation;
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto dashes = std::find(words.begin(), words.end(), "--");
  if (dashes != words.end()) {
    invocation.after_dashes.assign(dashes + 1, words.end());
    words.erase(dashes, words.end());
  }
  std::reverse(words.begin(), words.end());  // as CLI11 takes a vector

  CLI::App app{
      "Holds an MPI job still for an instant, keeps that instant on disk, and lets it play on",
      "fermata"};
  app.set_version_flag("--version", "fermata " FERMATA_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  app.add_option("--coordinator", invocation.coordinator_option,
                 "The coordinator of many nodes [$FERMATA_COORDINATOR, the config file; none: "
                 "this machine alone]")
      ->type_name("HOST:PORT");
  app.get_formatter()->column_width(34);
  add_run(app, invocation);
  add_checkpoint(app, invocation);
  add_restart(app, invocation);
  add_ls(app, invocation);
  add_show(app, invocation);
  add_inspect(app, invocation);
  add_verify(app, invocation);
  add_compact(app, invocation);
  add_able(app, invocation);
  add_exec(app, invocation);
  add_jobs(app, invocation);
  add_nodes(app, invocation);
  add_vacate(app, invocation);
  add_requeue(app, invocation);
  add_scontrol(app, invocation);
  add_drain(app, invocation);
  add_undrain(app, invocation);
  add_prune(app, invocation);
  add_numa(app, invocation);
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    heed_json(app);
    return tell(app, error);
  }
  heed_json(app);

  Result<Config> config = load_config();
  if (!config) return fail(config.error());
  invocation.config = *std::move(config);
  init_log(invocation.config.log_level, invocation.config.log_format);
  return invocation.action();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_main(argc, argv);
  } catch (const std::exception& error) {
    return fail({Code::kInternal, std::string("internal error: ") + error.what()});
  }
}
