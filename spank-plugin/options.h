// What users ask of the plugin: options of srun, sbatch and salloc, environment variables, and the
// defaults of plugstack.conf, in this order of weight. One thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

struct spank_handle;

namespace fermata::spank_plugin {

struct Options {
  std::optional<std::chrono::milliseconds> interval;  ///< 0: on request alone
  bool never = false;                                 ///< no interval, whatever the site's default
  bool asked = false;  ///< complete(): that a step is in pods is not the site's wish alone
  std::optional<std::string> dir;
  std::optional<std::string> restart_dir;
  std::optional<std::string> restart;  ///< "latest", "never" or a CRID
  bool skip_done = false;
  std::optional<std::chrono::milliseconds> before_end;  ///< 0: not
  bool before_end_default = false;      ///< the site's: for those jobs of which it is possible
  std::optional<std::string> compress;  ///< parse_compression()

  /// Whether a last checkpoint before the time limit is asked for by the user.
  bool ends_early() const { return before_end && before_end->count() > 0 && !before_end_default; }
  /// Whether a step is to be in pods.
  bool wanted() const { return interval || ends_early() || (restart && *restart != "never"); }
};

/// Sets one of "interval", "dir", "restart-dir", "restart", "skip-done", "compress", "before-end".
/// kUsage: the value is none of this option's.
Status set_option(Options& options, std::string_view name, std::string_view value);

/// The options of plugstack.conf's line: name=value each. `socket` gets what stands in "socket=".
Status take_arguments(int count, char** words, Options& options, std::string& socket);

/// Fills in what `options` has not: from the variables that `variable` finds (empty: not set), and
/// then from `defaults`.
using Variable = std::optional<std::string> (*)(void* context, const char* name);
Status complete(Options& options, const Options& defaults, Variable variable, void* context);

/// Registers the options with Slurm; what is given comes into given_options().
bool register_options(spank_handle* handle);
Options& given_options();

}  // namespace fermata::spank_plugin
