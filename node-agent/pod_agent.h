// Takes the images of one pod: what one node does in the phases of a set. Between two sets it costs
// the job nothing. Called on one thread, always the same (the tracer). Whatever fails, the pod runs
// on: roll_back(), or the end of the object, lets it go and removes what was written.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/compression.h"
#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "node-agent/huge_pages.h"
#include "node-agent/lazy_restore.h"
#include "node-agent/snapshot.h"
#include "node-agent/write_tracking.h"
#include "proto/addresses.pb.h"

namespace fermata::numa {
struct Topology;
}
namespace fermata::isolation {
class Isolation;
}

namespace fermata::node_agent {

/// The pod an agent works on.
struct PodToHold {
  JobStep job;
  pid_t init = -1;              ///< host PID of PID 1
  std::filesystem::path group;  ///< cgroup v2 directory
  Credentials owner;            ///< with whose rights images are written

  // Of a pod that is one of several; the defaults are those of a pod alone.
  uint32_t pod = 0;
  isolation::Isolation* isolation = nullptr;  ///< its cable; not owned
  /// Connections may leave the pod: they are told by outside_connections(), for others to judge.
  bool allow_outside = false;
  /// How many streams of single ranks PID 1 holds (engine/capture.h).
  int rank_streams = 0;
  /// Of the node it was first started on, as an image has them (PodState.known_addresses). Empty:
  /// this one.
  std::vector<std::string> known_addresses{};
  /// Looked at while an image is written, from any thread: true ends that (kGone). May be null.
  std::function<bool()> stop{};
  /// Bytes a second at which images are written while the pod runs; 0: no limit.
  uint64_t write_bandwidth = 0;
  /// At most so many rounds of copies are made before a cut, while the pod runs; 0: none.
  unsigned precopy = 0;
  /// Has the pod's memory come, after a restart: sets begin when it has. May be null; not owned.
  LazyRestore* lazy = nullptr;
  std::string compress = "none";  ///< ImageOrder::compress, where that does not say
};

/// The image to be made.
struct ImageOrder {
  Crid crid;
  Crid parent;                   ///< a committed set that the image may build on; 0: a full one
  std::filesystem::path folder;  ///< of the set; exists
  bool end_job = false;          ///< the pod stands still until end_job() or roll_back()
  std::string track;             ///< engine::parse_track(): how writes are tracked
  std::string compress = {};     ///< parse_compression(): its pages; empty: PodToHold::compress
};

struct ImageNumbers {
  uint64_t memory_bytes = 0;  ///< of the job, in the image or in its parents
  uint64_t image_bytes = 0;
  std::chrono::nanoseconds stand_still{};
  std::chrono::nanoseconds held{};  ///< later, while it was written, for want of memory
  bool copied = false;              ///< the pod ran on while its image was written
  std::string snapshot;             ///< how: Snapshot::name()
  Crid parent;                      ///< the set that the image builds on; 0: a full one
  std::string track;                ///< engine::track_name()
  std::string image;                ///< file name
  std::string digest;
  std::string time;  ///< of the cut
};

/// What `fermata able` tells.
struct AbleAnswer {
  uint64_t memory_bytes = 0;
  uint64_t image_bytes = 0;
  size_t processes = 0;
  size_t threads = 0;
  std::chrono::nanoseconds stand_still{};  ///< measured: without the copy of memory
};

class PodAgent {
 public:
  explicit PodAgent(PodToHold pod);
  PodAgent(const PodAgent&) = delete;
  PodAgent& operator=(const PodAgent&) = delete;
  ~PodAgent();

  /// Looks whether there is room on disk and makes room for a copy in memory. The job runs.
  Status prepare(const ImageOrder& order);
  /// Cuts the pod off from all others until join(), for `at_most` at the longest. Called again, it
  /// prolongs that.
  Status isolate(std::chrono::nanoseconds at_most);
  /// Stops the pod, records it, and lets it run on, if its memory could be copied meanwhile.
  Status capture(std::chrono::milliseconds deadline);
  /// Ends the isolation. kTimeout: it had run out before, and what was captured is no cut.
  Status join();
  /// When the other pods of the set have joined, too; once: has connections go on that a lost
  /// acknowledgement holds up.
  void nudge();
  /// Writes the image under its ".part" name, durably. A pod that still stood runs when its memory
  /// is written.
  Status write_back();
  /// Gives the image its name, durably.
  Status commit();
  /// Undoes all of the above, in any state. Idempotent.
  void roll_back();
  bool stands_still() const;
  /// With ImageOrder::end_job: kills the pod that stands still.
  Status end_job();

  /// Of the capture last made: TCP connections whose other end is not in the pod.
  const std::vector<image::OutsideConnection>& outside_connections() const { return outside_; }

  /// Numbers of the set in work, or the last one.
  const ImageNumbers& numbers() const { return numbers_; }

  /// The whole capture without writing. kCannotHold names what stands in the way.
  Result<AbleAnswer> able(std::chrono::milliseconds deadline);

 private:
  struct Work;  // of one set

  Status have_memory() const;
  Status prepare_snapshot(const ImageOrder& order);
  Status start_tracking();
  Status read_topology();
  void note_huge_pages();
  Status record_addresses(image::PodState& state) const;
  Status let_run();
  /// Of a pod that is bounded: nothing holds it any more. Returns `so_far`, or why it came to that.
  Status end_bound(const Status& so_far);
  std::filesystem::path part_file() const;

  PodToHold pod_;
  ImageNumbers numbers_;
  WriteTracking tracking_;
  Snapshot snapshot_;
  HugePages huge_pages_;
  std::unique_ptr<numa::Topology> topology_;  ///< asked for once: it takes some 10 ms
  std::vector<image::OutsideConnection> outside_;
  std::unique_ptr<Work> work_;
};

}  // namespace fermata::node_agent
