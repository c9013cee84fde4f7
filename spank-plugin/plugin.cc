// Slurm's side of Fermata: steps that ask for checkpoints run in pods. In srun, sbatch and salloc
// it only reads options; in slurmstepd it makes each task of such a step a stub (stub.h) and the
// agent of the node does the rest. A step that asks for nothing gets nothing.
//
// Order of Slurm's calls: slurm/spank.h. Names are kept extern "C" by the declarations below: const
// at namespace scope is internal in C++, and the loader would find none of them.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "common/stub_message.h"
#include "common/unique_fd.h"
#include "spank-plugin/options.h"
#include "spank-plugin/stub.h"
#include "spank-plugin/unfit.h"

#pragma GCC visibility push(default)
extern "C" {
#include <slurm/slurm.h>
#include <slurm/spank.h>
extern const char plugin_name[];
extern const char plugin_type[];
extern const unsigned int plugin_version;
extern const unsigned int spank_plugin_version;
SPANK_PLUGIN(fermata, 1)
}
#pragma GCC visibility pop

namespace fermata::spank_plugin {
namespace {

/// An agent is waited for.
constexpr std::chrono::seconds kPatience{30};
/// The same where the step may be one that needs none: no longer than an agent takes that is
/// started anew.
constexpr std::chrono::seconds kARestart{5};

Options defaults;
std::string agent_socket = kStubSocket;
bool in_pods = false;
/// In a task's process: the connection, and what was said over it.
std::optional<UniqueFd> agent;
StepTask this_task;
/// Why there is no connection, in a step that may not need one.
std::string no_agent;

int refuse(const std::string& why) {
  slurm_error("fermata: %s", why.c_str());
  return -1;
}

std::optional<std::string> own_variable(void* /*context*/, const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::optional<std::string> job_variable(void* context, const char* name) {
  constexpr size_t kLongest = 131072;  // of one variable: execve(2)
  std::string value(kLongest, '\0');
  if (spank_getenv(static_cast<spank_t>(context), name, value.data(),
                   static_cast<int>(value.size())) != ESPANK_SUCCESS) {
    return std::nullopt;
  }
  value.resize(value.find('\0'));
  return value;
}

/// What sbatch and salloc are asked is for the steps of the job: they find it as srun's.
void hand_down(const char* name, const char* to) {
  if (const char* value = getenv(name)) setenv(to, value, 1);
}

template <typename T>
T item(spank_t handle, spank_item which) {
  T value{};
  spank_get_item(handle, which, &value);
  return value;
}

/// Slurm 22.05 tells a step's slurmstepd no count; the batch script has it in its environment, and
/// so its steps have.
uint32_t restart_count(spank_t handle) {
  const auto told = item<uint32_t>(handle, S_SLURM_RESTART_COUNT);
  const std::optional<std::string> variable = job_variable(handle, "SLURM_RESTART_COUNT");
  const auto found = static_cast<uint32_t>(strtoul(variable.value_or("0").c_str(), nullptr, 10));
  return std::max(told, found);
}

bool has_terminal() { return isatty(STDIN_FILENO) != 0; }

TaskCommand command_of(spank_t handle) {
  TaskCommand command;
  int count = 0;
  char** words = nullptr;
  char** environment = nullptr;
  if (spank_get_item(handle, S_JOB_ARGV, &count, &words) == ESPANK_SUCCESS) {
    command.command.assign(words, words + count);
  }
  spank_get_item(handle, S_JOB_ENV, &environment);
  for (char** entry = environment; entry != nullptr && *entry != nullptr; ++entry) {
    command.environment.emplace_back(*entry);
  }
  std::string folder(PATH_MAX, '\0');
  command.working_directory =
      getcwd(folder.data(), folder.size()) == nullptr ? "/" : folder.c_str();
  if (!command.command.empty()) {
    command.program = find_in_path(command.command[0], command.environment);
  }
  return command;
}

/// Why this task cannot be in a pod, as far as is known before it has its streams; empty: it can.
std::string_view why_unfit(spank_t handle, const TaskCommand& command) {
  if (is_multi_prog(command)) {
    return "a step with --multi-prog cannot be held, its tasks are different programs";
  }
  // Each component counts its tasks from 0, and all have the step's number; srun alone knows how
  // many there are.
  const std::optional<std::string> all = job_variable(handle, "SLURM_STEP_NUM_TASKS");
  if (all && strtoul(all->c_str(), nullptr, 10) != this_task.ranks) {
    return "a step of several components cannot be held";
  }
  return {};
}

/// Whether it is the site's wish alone that it runs in a pod, and it may turn out to be unfit: a
/// step inside of one with --pty has the variable, too.
bool may_do_without(spank_t handle) {
  if (given_options().asked) return false;
  return job_variable(handle, "SLURM_PTY_PORT") || !why_unfit(handle, command_of(handle)).empty();
}

/// Slurm tells by itself why it cannot be executed. Nothing is executed where a set may be gone on
/// with.
bool is_no_program(const std::string& program) {
  const Options& options = given_options();
  return this_task.start == 0 && options.restart.value_or("never") == "never" &&
         access(program.c_str(), X_OK) != 0;
}

/// Who the task is; false: Slurm does not tell.
bool identify(spank_t handle, StepTask& task) {
  gid_t* groups = nullptr;
  int count = 0;
  if (spank_get_item(handle, S_JOB_UID, &task.uid) != ESPANK_SUCCESS ||
      spank_get_item(handle, S_JOB_GID, &task.gid) != ESPANK_SUCCESS ||
      spank_get_item(handle, S_JOB_SUPPLEMENTARY_GIDS, &groups, &count) != ESPANK_SUCCESS) {
    return false;
  }
  task.groups.assign(groups, groups + count);
  return true;
}

StepTask describe(spank_t handle) {
  const Options& options = given_options();
  StepTask task;
  task.job = item<uint32_t>(handle, S_JOB_ID);
  task.step = item<uint32_t>(handle, S_JOB_STEPID);
  task.start = restart_count(handle);
  task.node = item<uint32_t>(handle, S_JOB_NODEID);
  task.nodes = item<uint32_t>(handle, S_JOB_NNODES);
  task.ranks = item<uint32_t>(handle, S_JOB_TOTAL_TASK_COUNT);
  task.here = item<uint32_t>(handle, S_JOB_LOCAL_TASK_COUNT);
  task.rank = item<uint32_t>(handle, S_TASK_GLOBAL_ID);
  if (options.interval) task.interval_ms = static_cast<uint64_t>(options.interval->count());
  task.dir = options.dir.value_or("");
  task.restart_dir = options.restart_dir.value_or("");
  task.restart = options.restart.value_or("");
  task.skip_done = options.skip_done;
  if (options.before_end) {
    task.before_end_ms = static_cast<uint64_t>(options.before_end->count());
  }
  task.before_end_default = options.before_end_default;
  task.compress = options.compress.value_or("");
  return task;
}

int init(spank_t handle, int count, char** words) {
  const Status taken = take_arguments(count, words, defaults, agent_socket);
  if (!taken) return refuse(taken.message());
  const spank_context_t context = spank_context();
  const bool has_options =
      context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR || context == S_CTX_REMOTE;
  if (has_options && !register_options(handle)) return refuse("its options cannot be registered");
  return 0;
}

int init_post_opt(spank_t handle) {
  const spank_context_t context = spank_context();
  if (context == S_CTX_ALLOCATOR) {
    // That of a requeued job in which this one is submitted: Slurm sets one's own from 1 on.
    unsetenv("SLURM_RESTART_COUNT");
    hand_down("SBATCH_CHECKPOINT", "SLURM_CHECKPOINT");
    hand_down("SBATCH_CHECKPOINT_DIR", "SLURM_CHECKPOINT_DIR");
    hand_down("SBATCH_CHECKPOINT_BEFORE_END", "SLURM_CHECKPOINT_BEFORE_END");
  }
  if (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR) {
    const Status complete_now = complete(given_options(), defaults, own_variable, nullptr);
    if (!complete_now) return refuse(complete_now.message());
    // Inside of one, what kind of job it is the coordinator asks Slurm.
    if (context == S_CTX_LOCAL && given_options().ends_early() &&
        getenv("SLURM_JOB_ID") == nullptr) {
      return refuse(
          "--checkpoint-before-end: Slurm requeues batch jobs only; submit a script that runs the "
          "step by sbatch");
    }
    return 0;
  }
  if (context != S_CTX_REMOTE) return 0;
  // Not the batch script, the extern or the interactive step.
  if (item<uint32_t>(handle, S_JOB_STEPID) >= SLURM_MAX_NORMAL_STEP_ID) return 0;
  const Status completed = complete(given_options(), defaults, job_variable, handle);
  if (!completed) return refuse(completed.message());
  in_pods = given_options().wanted();
  return 0;
}

int task_init_privileged(spank_t handle) {
  if (!in_pods) return 0;
  this_task = describe(handle);
  if (!identify(handle, this_task)) return refuse("Slurm does not tell the job's user and groups");
  const bool optional = may_do_without(handle);
  Result<UniqueFd> connected = introduce(agent_socket, this_task, optional ? kARestart : kPatience);
  if (!connected && optional) {
    no_agent = connected.error().message();
    return 0;
  }
  if (!connected) return refuse(connected.error().message());
  agent = *std::move(connected);
  return 0;
}

int task_init(spank_t handle) {
  if (!agent && no_agent.empty()) return 0;
  // srun has given each task's first word as it was typed; the rest of Slurm's order is unchanged.
  const TaskCommand command = command_of(handle);
  const std::string_view unfit = has_terminal()
                                     ? "a step with --pty cannot be held, its terminal lies outside"
                                     : why_unfit(handle, command);
  if (!unfit.empty()) {
    // A step with --pty is more than one task's only where somebody asks for that: the others, who
    // have no terminal, cannot tell.
    if (!given_options().asked && (!has_terminal() || this_task.ranks == 1)) {
      agent.reset();
      return 0;
    }
    // One of its tasks says it.
    const bool speaks = job_variable(handle, "SLURM_PROCID").value_or("0") == "0";
    return speaks ? refuse(fmt::format("{}; --checkpoint-interval=never runs it without", unfit))
                  : -1;
  }
  if (!agent) return refuse(no_agent);
  if (is_no_program(command.program)) {
    agent.reset();
    return 0;
  }
  const Refused refused =
      serve(*std::exchange(agent, std::nullopt), agent_socket, this_task, command);
  if (!refused.why.empty()) slurm_error("fermata: %s", refused.why.c_str());
  _exit(refused.exit_status);
}

}  // namespace
}  // namespace fermata::spank_plugin

extern "C" {

int slurm_spank_init(spank_t handle, int count, char** words) {
  return fermata::spank_plugin::init(handle, count, words);
}
int slurm_spank_init_post_opt(spank_t handle, int /*count*/, char** /*words*/) {
  return fermata::spank_plugin::init_post_opt(handle);
}
int slurm_spank_task_init_privileged(spank_t handle, int /*count*/, char** /*words*/) {
  return fermata::spank_plugin::task_init_privileged(handle);
}
int slurm_spank_task_init(spank_t handle, int /*count*/, char** /*words*/) {
  return fermata::spank_plugin::task_init(handle);
}
}
