#include "cli/command.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/listing.h"
#include "node-agent/pod/pod.h"
#include "storage/printable.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not every libc has it

namespace fermata::cli {

namespace fs = std::filesystem;

namespace {

bool failures_as_json = false;

}  // namespace

node_agent::JobRegistry Invocation::registry() const {
  // For tests: jobs of their own. Not honoured where the caller gains rights by us.
  const char* root = secure_getenv("FERMATA_RUN_DIR");
  return root != nullptr ? node_agent::JobRegistry(root) : node_agent::JobRegistry();
}

std::string Invocation::coordinator() const {
  if (coordinator_option) return *coordinator_option;
  const char* environment = getenv("FERMATA_COORDINATOR");
  return environment != nullptr ? environment : config.coordinator;
}

fs::path Invocation::checkpoint_dir(const std::string& option) const {
  fs::path dir = "fermata-checkpoints";
  const char* environment = getenv("FERMATA_CHECKPOINT_DIR");
  if (!option.empty()) {
    dir = option;
  } else if (environment != nullptr && *environment != '\0') {
    dir = environment;
  } else if (config.checkpoint_dir) {
    const Result<Credentials> caller = credentials_of_caller();
    dir = with_user_name(config.checkpoint_dir->native(),
                         caller ? caller->name : std::to_string(getuid()));
  }
  std::error_code error;
  const fs::path absolute = fs::absolute(dir, error).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

void say(std::string_view sentence) {
  const std::string line = fmt::format("fermata: {}\n", storage::printable(sentence));
  // One write, so that lines of several processes on one terminal do not mix.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

int fail(const Status& status) {
  if (failures_as_json) {
    print_json({{"error", status.message()}, {"code", std::string(code_name(status.code()))}});
  }
  say(status.message());
  return exit_code_of(status.code());
}

void on_chosen(CLI::App& subcommand, Invocation& invocation, std::function<Result<int>()> command) {
  subcommand.callback([command = std::move(command), &invocation] {
    invocation.action = [command] {
      const Result<int> status = command();
      return status ? *status : fail(status.error());
    };
  });
}

void tell_failures_as_json() { failures_as_json = true; }

std::vector<std::string> environment_for(const Credentials& owner) {
  std::vector<std::string> variables;
  const bool other = owner.uid != getuid();
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    if (other && (variable.starts_with("HOME=") || variable.starts_with("USER=") ||
                  variable.starts_with("LOGNAME="))) {
      continue;
    }
    variables.emplace_back(variable);
  }
  if (other) {
    variables.push_back("HOME=" + owner.home);
    variables.push_back("USER=" + owner.name);
    variables.push_back("LOGNAME=" + owner.name);
  }
  return variables;
}

Result<Credentials> job_owner(const std::string& user_option) {
  FERMATA_ASSIGN(Credentials caller, credentials_of_caller());
  if (user_option.empty()) return caller;
  FERMATA_ASSIGN(Credentials user, credentials_of(user_option));
  if (caller.uid != 0 && user.uid != caller.uid) {
    return failure(Code::kPermission,
                   fmt::format("--user {}: only root may run jobs of others", user_option));
  }
  return user;
}

Result<Credentials> folder_owner(const fs::path& dir) {
  FERMATA_ASSIGN(Credentials caller, credentials_of_caller());
  if (caller.uid != 0) return caller;
  struct stat status {};
  // The ledger is what is opened first; where there is none the folder will say so.
  if (lstat((dir / "ledger.sqlite").c_str(), &status) != 0 && lstat(dir.c_str(), &status) != 0) {
    return caller;
  }
  // As root's own job: with the groups that root has now, as at its start.
  if (status.st_uid == caller.uid) return caller;
  return credentials_of(std::to_string(status.st_uid));
}

Status require_capabilities() {
  const std::string missing = pod::missing_capabilities();
  if (missing.empty()) return {};
  return {Code::kPermission,
          fmt::format("this needs capabilities that are missing here: {}; run it as root, for "
                      "example with sudo",
                      missing)};
}

Result<node_agent::JobRecord> living_job(const Invocation& invocation, const std::string& job) {
  FERMATA_ASSIGN(const JobStep step, parse_job_step(job));
  FERMATA_ASSIGN(node_agent::JobRecord record, invocation.registry().find(step));
  return record;
}

}  // namespace fermata::cli
