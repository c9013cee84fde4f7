// The pods that an agent of the service holds on this node, as files that outlive it:
//   <run_dir>/pods/<job>.<step>.<pod>.<start>.json
//   <run_dir>/pods/<job>.<step>.<pod>.<start>.placement  (what its restart planned)
//   <run_dir>/pods/<job>.<step>.<pod>.<start>.ends       (how its ranks ended: rank_ends.h)
//   <run_dir>/pods/<job>.<step>.<pod>.<start>.terms      (whose SIGTERM is held: held_terms.h)
//   <run_dir>/pods/<job>.<step>.<pod>.<start>.memory     (is there while its memory comes)
// A record is written before the pod's first process runs and stays until its end was reported, so
// that an agent that comes after one that was killed finds every pod, and nothing else. Any thread;
// one agent writes, anybody reads.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"

namespace fermata::node_agent {

/// The process that Slurm has for a rank (spank-plugin/stub.h).
struct StubProcess {
  uint32_t rank = 0;
  pid_t pid = 0;
  uint64_t start = 0;  ///< process_start_time(pid)

  bool lives() const;
};

struct PodRecord {
  PodId id;
  pid_t init = -1;                    ///< host PID of PID 1; -1: the pod was being made
  uint64_t init_start = 0;            ///< process_start_time(init)
  std::filesystem::path group;        ///< cgroup v2 directory
  Credentials owner;                  ///< whole: an agent that comes back need not look it up
  std::vector<uint32_t> pod_of_rank;  ///< of the whole step
  std::vector<std::string> command;   ///< empty after a restart: the image knows it
  std::filesystem::path folder;       ///< of checkpoints
  /// Of the node it was first started on (PodState.known_addresses).
  std::vector<std::string> known_addresses;
  bool stubs = false;    ///< of a Slurm step: a process outside stands for each rank
  int rank_streams = 0;  ///< streams of single ranks that podinit holds (StdioFile from 3 on)
  std::vector<StubProcess> stub_processes;
  int64_t started = 0;  ///< seconds since the epoch
  bool ended = false;
  std::optional<int> wait_status;  ///< of a pod that has ended, where that is known
  std::string reason;              ///< of its end, where that is not the ranks' own

  /// Whether PID 1 still is the process that was recorded.
  bool alive() const;
  /// Whether the step has other pods.
  bool has_peers() const;
  /// Ranks in this pod, ascending.
  std::vector<uint32_t> ranks_here() const;
};

class PodRegistry {
 public:
  explicit PodRegistry(const std::filesystem::path& run_dir) : folder_(run_dir / "pods") {}

  /// Writes or replaces the record.
  Status put(const PodRecord& record) const;
  /// Removes it and what lies beside it. Fine when there is none.
  void remove(const PodId& id) const;
  /// Where the plan of a pod's restart lies (PodPlacer::save).
  std::filesystem::path placement_of(const PodId& id) const;
  /// Where it is written how the ranks of a Slurm step's pod ended.
  std::filesystem::path ends_of(const PodId& id) const;
  /// Ranks whose SIGTERM is held back here (HeldTerms): an agent that comes after one that was
  /// killed passes it on.
  void note_held_terms(const PodId& id, const std::set<uint32_t>& ranks) const;
  std::set<uint32_t> held_terms_of(const PodId& id) const;
  /// Whether memory of a pod that runs is still being read (LazyRestore): without the agent that
  /// reads it the pod has none.
  Status note_memory_comes(const PodId& id) const;
  void note_memory_came(const PodId& id) const;
  bool memory_comes(const PodId& id) const;
  /// That of any pod.
  bool any_memory_comes() const;
  /// In ascending order. A file that is none of ours, or that others can have written, is passed
  /// over.
  std::vector<PodRecord> all() const;
  /// Removes what an agent left that was killed while it wrote a record, and what lies beside
  /// no record.
  void tidy() const;

 private:
  std::filesystem::path file_of(const PodId& id, std::string_view kind) const;

  std::filesystem::path folder_;
};

}  // namespace fermata::node_agent
