// What is done before a cut, while the job runs: whether there is room, and how memory is to be
// kept.
#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>

#include "common/log.h"
#include "common/size_parse.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/map_flags.h"
#include "node-agent/engine/twin_ends.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/memory_room.h"
#include "node-agent/pod_agent_work.h"
#include "storage/manifest.h"

namespace fermata::node_agent {
namespace {

constexpr double kCopyShare = 0.4;          // of available memory that a copy may take
constexpr double kTwinShare = 0.8;          // of what the job may take, that its copy-on-write may
constexpr double kEstimateMargin = 1.1;     // the job grows between the estimate and the cut
constexpr uint64_t kSlack = 16 << 20;       // it goes on writing until then
constexpr uint64_t kOwnBuffers = 16 << 20;  // that an image is written through
constexpr std::chrono::seconds kMemoryComes{20};           // after a lazy restart
constexpr std::chrono::milliseconds kStartDeadline{2000};  // to stop, where it can be done later

uint64_t with_margin(uint64_t bytes) {
  return static_cast<uint64_t>(static_cast<double>(bytes) * kEstimateMargin);
}

uint64_t share_of(uint64_t bytes, double share) {
  return static_cast<uint64_t>(static_cast<double>(bytes) * share);
}

}  // namespace

Status PodAgent::prepare(const ImageOrder& order) {
  roll_back();
  engine::wait_for_twin_ends();  // they count as memory of the pod
  numbers_ = {};
  FERMATA_TRY(have_memory());
  work_ = std::make_unique<Work>();
  work_->order = order;
  FERMATA_ASSIGN_STATUS(work_->compress,
                        parse_compression(order.compress.empty() ? pod_.compress : order.compress));

  if (shares_memory_limit(pod_.group)) work_->first_to_go.emplace();
  FERMATA_TRY(prepare_snapshot(order));
  note_huge_pages();
  // Is made now, while the pod runs, and before the guard, a fork, that may have to join it.
  engine::MapFlags::of_this_kernel();

  if (isolation::Isolation* isolation = pod_.isolation; isolation != nullptr) {
    // Now, as the others of the set wait for who is isolated last.
    FERMATA_ASSIGN_STATUS(
        work_->guard, ThawGuard::start(pod_.group, pod_.init, [isolation] { isolation->join(); }));
  }
  FERMATA_TRY(read_topology());
  work_->image.topology_xml = topology_->xml;
  work_->pages = survey_placement(pod_.group);
  storage::ImageHeader& header = work_->image.header;
  header.crid = order.crid;
  header.job = pod_.job;
  header.pod = pod_.pod;
  header.tool_version = FERMATA_VERSION;
  header.track = engine::track_name(tracking_.way());
  numbers_.track = header.track;
  utsname host{};
  uname(&host);
  header.host = host.nodename;
  header.kernel = host.release;
  return {};
}

/// Missing pages are in no image, and can be tracked by nobody else.
Status PodAgent::have_memory() const {
  if (pod_.lazy == nullptr) return Status::ok();
  Status came = pod_.lazy->finish(kMemoryComes);
  if (came.code() == Code::kTimeout) return {Code::kBusy, came.message()};
  return came;
}

void PodAgent::note_huge_pages() {
  const bool splits = snapshot_.by_twins();
  const Result<std::vector<pid_t>> processes =
      splits ? engine::group_processes(pod_.group) : std::vector<pid_t>{};
  huge_pages_.note(processes.value_or(std::vector<pid_t>{}));
}

Status PodAgent::prepare_snapshot(const ImageOrder& order) {
  // Also where no set builds on another: copies ahead need it.
  const std::string track = order.track == "none" && pod_.precopy > 0 ? "auto" : order.track;
  FERMATA_ASSIGN_STATUS(const engine::TrackKind way, engine::parse_track(track));
  // Who asks for nothing in particular shall not lose huge pages, which break at the first write.
  const bool spare_huge_pages = track.empty() || track == "auto";
  tracking_.begin(way, spare_huge_pages, order.parent);
  if (!order.end_job && tracking_.wants_start(pod_.group)) {
    const Status started = start_tracking();
    if (!started) log_info(fmt::format("job {}: {}", to_string(pod_.job), started.message()));
    tracking_.protect();
  }

  SnapshotNeed need;
  need.use = memory_use(pod_.group);
  const uint64_t changed = tracking_.estimate(pod_.group);
  need.changed = std::min(with_margin(changed) + kSlack, with_margin(need.use.own));
  need.use.own = with_margin(need.use.own);
  need.use.shared = with_margin(need.use.shared);
  {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(pod_.owner));
    FERMATA_TRY(storage::check_free_room(order.folder, need.changed + need.use.shared));
  }
  // In tmpfs an image takes memory, too, and is not to be had at the job's cost.
  const uint64_t image = is_in_memory(order.folder) ? need.changed + need.use.shared : 0;
  const uint64_t available = available_memory();
  if (image > share_of(available, kTwinShare)) {
    return {Code::kStorage,
            fmt::format("folder {} is in memory (tmpfs), of which {} are left, and the set needs "
                        "about {}: choose a folder on a disk",
                        order.folder.native(), format_size(available), format_size(image))};
  }
  if (order.end_job) {
    snapshot_.prepare_stopped();  // it stands still to its end: nothing is gained
    return Status::ok();
  }
  const uint64_t available_to_pod = available_memory_of(pod_.group);
  need.room = share_of(available - image, kCopyShare);
  need.room_of_pod = share_of(available_to_pod - std::min(available_to_pod, image), kTwinShare);
  work_->room.emplace(pod_.group, Snapshot::budget());
  work_->writers = writers_of(need.use);
  const uint64_t head_room = work_->room->bytes();
  need.head_room = head_room - std::min(head_room, image);
  work_->reserved = work_->first_to_go ? kOwnBuffers : 0;
  need.reserved = work_->reserved;
  const std::optional<uint64_t> left =
      snapshot_.copy_ahead(need, changed, tracking_, pod_.group, pod_.precopy);
  if (left) need.changed = std::min(need.changed, with_margin(*left) + kSlack);
  snapshot_.prepare(need);
  return Status::ok();
}

/// To protect all pages of a large process takes longer than a cut should: it is begun before, in
/// a stop of a few milliseconds, and done while the pod runs.
Status PodAgent::start_tracking() {
  FERMATA_ASSIGN_STATUS(const ThawGuard guard, ThawGuard::start(pod_.group, pod_.init));
  FERMATA_ASSIGN_STATUS(
      const std::unique_ptr<engine::FrozenPod> frozen,
      engine::FrozenPod::freeze(pod_.group, pod_.init, static_cast<int>(kStartDeadline.count())));
  tracking_.start(*frozen);
  return frozen->resume();
}

Status PodAgent::read_topology() {
  if (topology_) return {};
  FERMATA_ASSIGN_STATUS(numa::Topology topology, numa::current_topology());
  topology_ = std::make_unique<numa::Topology>(std::move(topology));
  return {};
}

}  // namespace fermata::node_agent
