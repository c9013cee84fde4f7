// fermata exec: runs a command inside the pod of a job.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "node-agent/pod/pod.h"

namespace fermata::cli {
namespace {

constexpr int kNotFoundExit = 127;

Result<int> exec(const Invocation& invocation, const std::string& job,
                 const std::vector<std::string>& command) {
  FERMATA_ASSIGN(const node_agent::JobRecord record, living_job(invocation, job));
  FERMATA_ASSIGN(const Credentials caller, credentials_of_caller());
  if (caller.uid != 0 && caller.uid != record.owner_uid) {
    return failure(Code::kPermission, fmt::format("job {} is user {}'s; only its owner and root "
                                                  "may enter it",
                                                  to_string(record.job), record.owner));
  }
  FERMATA_TRY_RESULT(require_capabilities());
  FERMATA_ASSIGN(const Credentials owner, credentials_of(std::to_string(record.owner_uid)));
  Result<int> status =
      pod::exec_in_pod(record.init, record.group, owner, command, environment_for(owner));
  if (!status && status.error().code() == Code::kNotFound) {
    fail(status.error());
    return kNotFoundExit;
  }
  return status;
}

}  // namespace

void add_exec(CLI::App& app, Invocation& invocation) {
  auto job = std::make_shared<std::string>();
  CLI::App* sub = app.add_subcommand("exec",
                                     "Run a command inside the pod of a job, as its owner:\n"
                                     "fermata exec JOB [--] COMMAND [ARGUMENTS...]");
  sub->add_option("JOB", *job, "The job: 12 or 12.0")->required();
  sub->prefix_command();
  sub->footer(
      "The exit status is the command's. While it runs the job cannot be held: checkpoints are\n"
      "refused with exit status 5.");
  sub->callback([sub, job, &invocation] {
    invocation.action = [sub, job, &invocation] {
      std::vector<std::string> command = sub->remaining();
      command.insert(command.end(), invocation.after_dashes.begin(), invocation.after_dashes.end());
      if (command.empty()) return fail({Code::kUsage, "exec: no command"});
      const Result<int> status = exec(invocation, *job, command);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
