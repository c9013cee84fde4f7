// What the subcommands share: the command line's frame, where things are, and how results are
// told. One thread.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "node-agent/job_registry.h"

namespace CLI {
class App;
}

namespace fermata::cli {

/// One call of `fermata`. Each subcommand's add_*() defines its options on the app and sets
/// `action` when it is chosen; main() runs it and returns its exit status.
struct Invocation {
  Config config;
  /// Everything after the first "--".
  std::vector<std::string> after_dashes;
  std::function<int()> action;
  /// Of --coordinator.
  std::optional<std::string> coordinator_option;

  /// "host:port" of --coordinator, $FERMATA_COORDINATOR or the config; empty: none.
  std::string coordinator() const;

  node_agent::JobRegistry registry() const;
  /// Of --checkpoint-dir, $FERMATA_CHECKPOINT_DIR, the config, else ./fermata-checkpoints;
  /// absolute.
  std::filesystem::path checkpoint_dir(const std::string& option) const;
};

void add_run(CLI::App& app, Invocation& invocation);
void add_checkpoint(CLI::App& app, Invocation& invocation);
void add_restart(CLI::App& app, Invocation& invocation);
void add_ls(CLI::App& app, Invocation& invocation);
void add_show(CLI::App& app, Invocation& invocation);
void add_inspect(CLI::App& app, Invocation& invocation);
void add_verify(CLI::App& app, Invocation& invocation);
void add_compact(CLI::App& app, Invocation& invocation);
void add_able(CLI::App& app, Invocation& invocation);
void add_exec(CLI::App& app, Invocation& invocation);
void add_jobs(CLI::App& app, Invocation& invocation);
void add_nodes(CLI::App& app, Invocation& invocation);
void add_drain(CLI::App& app, Invocation& invocation);
void add_undrain(CLI::App& app, Invocation& invocation);
void add_prune(CLI::App& app, Invocation& invocation);
void add_vacate(CLI::App& app, Invocation& invocation);
void add_requeue(CLI::App& app, Invocation& invocation);
void add_scontrol(CLI::App& app, Invocation& invocation);
void add_numa(CLI::App& app, Invocation& invocation);

/// Prints "fermata: <sentence>" on stderr, as storage::printable has it: a sentence may quote names
/// of files that a user chose.
void say(std::string_view sentence);
/// Says a failure; its exit status (common/status.h). With --json it is told on stdout, too:
/// {"error": sentence, "code": name}.
int fail(const Status& status);
/// What is done when the subcommand is chosen: its exit status, or a failure that is then said.
void on_chosen(CLI::App& subcommand, Invocation& invocation, std::function<Result<int>()> command);
/// From here on failures are told to a program.
void tell_failures_as_json();

/// The caller's environment; for another user with that user's name and home.
std::vector<std::string> environment_for(const Credentials& owner);

/// Whose job: the caller's, or --user's, which only root may choose.
Result<Credentials> job_owner(const std::string& user_option);
/// Whose checkpoint folder it is, to act with that user's rights: root acts as the folder's owner,
/// others as themselves.
Result<Credentials> folder_owner(const std::filesystem::path& dir);
/// kPermission, with what is missing and what to do, when this process cannot work on pods.
Status require_capabilities();

/// The job named on the command line: "12" or "12.0".
Result<node_agent::JobRecord> living_job(const Invocation& invocation, const std::string& job);

}  // namespace fermata::cli
