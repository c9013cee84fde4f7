#include "spank-plugin/options.h"

#include <fmt/format.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>

#include <array>

#include "common/compression.h"
#include "common/time_parse.h"

namespace fermata::spank_plugin {
namespace {

Options given;

enum Option : int {
  kInterval,
  kDir,
  kRestartDir,
  kRestart,
  kSkipDone,
  kCompress,
  kBeforeEnd,
  kOptions
};
constexpr std::array<std::string_view, kOptions> kNames{
    "interval", "dir", "restart-dir", "restart", "skip-done", "compress", "before-end"};

Status check_folder(std::string_view name, std::string_view value) {
  if (!value.empty()) return Status::ok();
  return {Code::kUsage, fmt::format("--{}: no folder is named", name)};
}

Status check_restart(std::string_view value) {
  constexpr size_t kMostDigits = 19;
  const bool number = !value.empty() && value.size() <= kMostDigits &&
                      value.find_first_not_of("0123456789") == std::string_view::npos &&
                      value.find_first_not_of('0') != std::string_view::npos;
  if (number || value == "latest" || value == "never") return Status::ok();
  return {Code::kUsage, fmt::format("--restart: '{}' is neither latest, never nor the number of a "
                                    "checkpoint",
                                    value)};
}

int on_option(int which, const char* value, int /*remote*/) {
  const Status set =
      set_option(given, kNames.at(static_cast<size_t>(which)), value == nullptr ? "" : value);
  if (set) return 0;
  slurm_error("fermata: %s", set.message().c_str());
  return -1;
}

/// Slurm's table has no const; it does not write through it.
struct spank_option option(const char* name, const char* argument, const char* usage,
                           Option which) {
  struct spank_option made {};
  made.name = const_cast<char*>(name);
  made.arginfo = const_cast<char*>(argument);
  made.usage = const_cast<char*>(usage);
  made.has_arg = argument == nullptr ? 0 : 1;
  made.val = which;
  made.cb = on_option;
  return made;
}

}  // namespace

Options& given_options() { return given; }

bool register_options(spank_handle* handle) {
  // The old name has to be there: Slurm would take it for an abbreviation.
  static std::array<struct spank_option, 8> table{
      option("checkpoint-interval", "time",
             "run steps in pods and take a checkpoint every time (30 or 30m: minutes; 90s, 2h; 0: "
             "on request; never)",
             kInterval),
      option("checkpoint", "time", "the old name of --checkpoint-interval", kInterval),
      option("checkpoint-dir", "dir", "folder of checkpoints", kDir),
      option("restart-dir", "dir", "folder of the checkpoints to restart from (--checkpoint-dir)",
             kRestartDir),
      option("restart", "latest|CRID|never",
             "continue steps from a checkpoint; without it, those of requeued jobs are", kRestart),
      option("checkpoint-skip-done", nullptr,
             "a step of a requeued job that had finished returns its status and is not run again",
             kSkipDone),
      option("checkpoint-compress", "none|lz4|zstd|auto",
             "memory in checkpoints (the configuration of the nodes)", kCompress),
      option(
          "checkpoint-before-end", "time",
          "commit a checkpoint so long before the job's time limit, and requeue the job (0: not)",
          kBeforeEnd)};
  for (struct spank_option& one : table) {
    if (spank_option_register(handle, &one) != ESPANK_SUCCESS) return false;
  }
  return true;
}

Status set_option(Options& options, std::string_view name, std::string_view value) {
  if (name == kNames[kInterval] && value == "never") {
    options.interval.reset();
    options.never = true;
  } else if (name == kNames[kInterval]) {
    const Result<std::chrono::milliseconds> interval = parse_duration(value);
    if (!interval) return interval.error().within("--checkpoint-interval");
    options.interval = *interval;
    options.never = false;
  } else if (name == kNames[kDir]) {
    FERMATA_TRY(check_folder("checkpoint-dir", value));
    options.dir = value;
  } else if (name == kNames[kRestartDir]) {
    FERMATA_TRY(check_folder("restart-dir", value));
    options.restart_dir = value;
  } else if (name == kNames[kRestart]) {
    FERMATA_TRY(check_restart(value));
    options.restart = value;
  } else if (name == kNames[kSkipDone]) {
    options.skip_done = true;
  } else if (name == kNames[kCompress]) {
    const Result<Compression> known = parse_compression(value);
    if (!known) return known.error().within("--checkpoint-compress");
    options.compress = value;
  } else if (name == kNames[kBeforeEnd]) {
    const Result<std::chrono::milliseconds> before = parse_duration(value);
    if (!before) return before.error().within("--checkpoint-before-end");
    options.before_end = *before;
  } else {
    return {Code::kUsage, fmt::format("plugstack.conf: '{}' is no argument of this plugin", name)};
  }
  return Status::ok();
}

Status take_arguments(int count, char** words, Options& options, std::string& socket) {
  for (int i = 0; i < count; ++i) {
    const std::string_view word = words[i];
    const size_t equals = std::min(word.find('='), word.size());
    const std::string_view name = word.substr(0, equals);
    const std::string_view value = word.substr(std::min(equals + 1, word.size()));
    if (name == "socket") {
      socket = value;
      continue;
    }
    Status set = set_option(options, name, value);
    if (!set) return set.within("plugstack.conf");
  }
  return Status::ok();
}

Status complete(Options& options, const Options& defaults, Variable variable, void* context) {
  const auto fill = [&](bool has, const char* name, std::string_view which) -> Status {
    if (has) return Status::ok();
    const std::optional<std::string> value = variable(context, name);
    if (!value || value->empty()) return Status::ok();
    Status set = set_option(options, which, *value);
    return set ? set : set.within(std::string("$") + name);
  };
  FERMATA_TRY(fill(options.interval || options.never, "SLURM_CHECKPOINT", kNames[kInterval]));
  FERMATA_TRY(fill(options.dir.has_value(), "SLURM_CHECKPOINT_DIR", kNames[kDir]));
  FERMATA_TRY(fill(options.restart_dir.has_value(), "SLURM_RESTART_DIR", kNames[kRestartDir]));
  FERMATA_TRY(
      fill(options.before_end.has_value(), "SLURM_CHECKPOINT_BEFORE_END", kNames[kBeforeEnd]));
  options.asked = options.wanted();
  if (!options.before_end && defaults.before_end) {
    options.before_end = defaults.before_end;
    options.before_end_default = true;
  }
  if (!options.interval && !options.never) options.interval = defaults.interval;
  if (!options.dir) options.dir = defaults.dir;
  if (!options.restart_dir) options.restart_dir = defaults.restart_dir;
  if (!options.restart && !options.never) options.restart = defaults.restart;
  if (!options.compress) options.compress = defaults.compress;
  options.skip_done = options.skip_done || defaults.skip_done;
  return Status::ok();
}

}  // namespace fermata::spank_plugin
