// What the coordinator has to know again after it was killed at any instruction: the cluster's
// counters of CRIDs and jobs, and the jobs. <state_dir>/coordinator.sqlite, SQLite with a
// write-ahead log, every change on disk before the call returns. Thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "coord/coordinator.h"
#include "proto/store.pb.h"

namespace fermata::storage {
class Database;
}

namespace fermata::coord {

/// No job of Slurm's has a higher number: they have 32 bits, in a federation too (slurm.conf(5),
/// MaxJobId).
constexpr uint64_t kLastOfSlurm = UINT32_MAX;

/// A node that takes nothing new.
struct DrainedNode {
  std::string name;
  std::string reason;
  std::string by;     ///< login name
  int64_t since = 0;  ///< seconds since the epoch
};

class Store final : public CridSource {
 public:
  /// Makes the folder (mode 0700) and the store where they are missing. kBusy: another coordinator
  /// uses it. What ended more than 30 days ago is forgotten, but for its number.
  static Result<std::unique_ptr<Store>> open(const std::filesystem::path& state_dir);
  ~Store() override;

  /// kConflict: `at_least` is so far above what was allotted that it can be no count of anything;
  /// whoever may write it into a folder shall not use the cluster's numbers up.
  Result<Crid> allot_crid(Crid at_least) override;
  Result<uint64_t> allot_job(uint64_t at_least);
  /// From now on only higher ones are allotted; a number as far above as said is passed over.
  Status raise_job(uint64_t number);
  /// The highest number that was allotted, or raised to.
  Result<uint64_t> last_job();
  /// A start of the step that was never begun before, 1 or higher.
  Result<uint32_t> allot_start(JobStep step);

  /// Keeps this in place of what was kept of the step before.
  Status put(const stored::Job& job);
  /// All that are kept, in ascending order.
  Result<std::vector<stored::Job>> jobs();

  Status drain(const DrainedNode& node);
  Status undrain(const std::string& node);
  Result<std::vector<DrainedNode>> drained();

 private:
  Store(UniqueFd lock, std::filesystem::path file, std::unique_ptr<storage::Database> db);
  // What the public ones do; they say which file is damaged.
  Result<uint64_t> allot(const char* counter, uint64_t at_least);
  Result<uint32_t> next_start(JobStep step);
  Status raise(uint64_t number);
  Status write(const stored::Job& job);
  Result<std::vector<stored::Job>> read_jobs();
  // With mutex_ held, in a transaction:
  Result<uint64_t> last_allotted(const char* counter);
  Status set_counter(const char* counter, uint64_t value);

  const UniqueFd lock_;
  const std::filesystem::path file_;
  std::mutex mutex_;
  std::unique_ptr<storage::Database> db_;
};

}  // namespace fermata::coord
