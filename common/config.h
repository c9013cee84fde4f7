// The config file: TOML, /etc/fermata/fermata.toml or what $FERMATA_CONFIG names. Everything works
// without one; docs/fermata.toml lists every key with its default. Plain values; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "common/log.h"
#include "common/status.h"

namespace fermata {

/// Of copies before a cut: what does not get less by then does not.
inline constexpr uint32_t kMostPrecopyRounds = 20;

struct Config {
  /// Absolute; unset: the command line's own default.
  std::optional<std::filesystem::path> checkpoint_dir;
  LogLevel log_level = LogLevel::kWarning;
  LogFormat log_format = LogFormat::kText;
  /// Absolute; unset: libmunge's own default.
  std::optional<std::filesystem::path> munge_socket;
  /// Its requests count as root's; such a user need not exist.
  std::string slurm_user = "slurm";
  /// "host:port" of the coordinator; empty: none, commands work on this machine alone.
  std::string coordinator;
  /// Where the coordinator listens.
  std::string listen = "0.0.0.0:6820";
  /// Absolute: what the coordinator has to know again after a crash.
  std::filesystem::path state_dir = "/var/lib/fermata";
  /// Pods that write images at a time, over all jobs; 0: no limit.
  uint32_t max_writers = 0;
  /// Bytes a second at which a pod that runs has its image written; 0: no limit.
  uint64_t write_bandwidth = 0;
  /// At most so many rounds of copies of a pod's memory are made before its cut; 0: none.
  uint32_t precopy = 0;
  /// So many of a job's newest sets are kept; 0: all.
  uint32_t keep_sets = 2;
  /// Of the pages in images: parse_compression().
  std::string compress = "none";
  /// Whether jobs of Slurm take a last set in the grace time of a preemption.
  bool preempt_sets = true;
  /// A node whose agent is gone for so long has taken its pods with it.
  std::chrono::milliseconds node_grace{60'000};
  /// Absolute: what an agent has to know of its pods as long as they run.
  std::filesystem::path run_dir = "/run/fermata";
  /// Where an agent listens for those below it in a tree.
  std::string relay_listen = "0.0.0.0:6821";
  /// How many agents speak to one of them, or to the coordinator, for what pods exchange.
  uint32_t tree_arity = 8;
  /// Name of this node; empty: its host name.
  std::string node_name;
  /// Ranks this node takes; 0: one for each core.
  uint32_t slots = 0;
  /// How writes to memory are tracked, for sets that hold only what changed: "auto", "uffd",
  /// "soft-dirty", "hash". "none": every set is full.
  std::string track = "auto";
  /// Of such sets every so manieth is a full one; 1: all.
  uint32_t full_every = 10;
};

/// Reads one file. kNotFound when there is none; kUsage, with file, line and column, when it is no
/// TOML, has a key that nothing reads, or a value of the wrong kind.
Result<Config> load_config(const std::filesystem::path& file);

/// $FERMATA_CONFIG, which then has to exist, else /etc/fermata/fermata.toml, else the defaults. The
/// variable counts for nothing in a set-user-ID program (secure_getenv(3)).
Result<Config> load_config();

}  // namespace fermata
