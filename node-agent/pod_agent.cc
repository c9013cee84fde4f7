#include "node-agent/pod_agent.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "common/extents.h"
#include "common/fault_point.h"
#include "common/first_to_go.h"
#include "common/log.h"
#include "common/size_parse.h"
#include "node-agent/addresses.h"
#include "node-agent/engine/capture.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/map_flags.h"
#include "node-agent/engine/twin_ends.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/memory_room.h"
#include "node-agent/pod_placement.h"
#include "node-agent/stoppable_source.h"
#include "node-agent/thaw_guard.h"
#include "numa/topology.h"
#include "storage/image_writer.h"
#include "storage/manifest.h"

namespace fermata::node_agent {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr unsigned kThreads = 2;    // more gain little: disk and memory are shared with the job
constexpr double kCopyShare = 0.4;  // of available memory that a copy may take
constexpr double kTwinShare = 0.8;  // of what the job may take, that its copy-on-write may
constexpr double kEstimateMargin = 1.1;           // the job grows between the estimate and the cut
constexpr uint64_t kSlack = 16 << 20;             // it goes on writing until then
constexpr std::chrono::seconds kMemoryComes{20};  // after a lazy restart
constexpr std::chrono::milliseconds kStartDeadline{2000};  // to stop, where it can be done later

uint64_t with_margin(uint64_t bytes) {
  return static_cast<uint64_t>(static_cast<double>(bytes) * kEstimateMargin);
}

uint64_t share_of(uint64_t bytes, double share) {
  return static_cast<uint64_t>(static_cast<double>(bytes) * share);
}

uint64_t bytes_here(const std::vector<MemoryRegion>& regions) {
  uint64_t sum = 0;
  for (const MemoryRegion& region : regions) sum += region.bytes_here();
  return sum;
}

uint64_t bytes_in_all(const std::vector<MemoryRegion>& regions) {
  uint64_t sum = 0;
  for (const MemoryRegion& region : regions) sum += total_length(region.extents);
  return sum;
}

/// Every page, of a pod whose writes are tracked or not.
class Onlooker final : public engine::EveryPage {
 public:
  explicit Onlooker(const WriteTracking& tracking) : tracking_(tracking) {}
  bool is_ours(pid_t pid, uint64_t start, uint64_t end) const override {
    return tracking_.is_ours(pid, start, end);
  }

 private:
  const WriteTracking& tracking_;
};

/// Where the time of the stand-still goes, for the log.
class StopWatch {
 public:
  void note(std::string_view what) {
    const SteadyClock::time_point now = SteadyClock::now();
    const std::chrono::duration<double, std::milli> took = now - last_;
    text_ += fmt::format(" {} {:.1f} ms", what, took.count());
    last_ = now;
  }
  const std::string& text() const { return text_; }

 private:
  SteadyClock::time_point last_ = SteadyClock::now();
  std::string text_;
};

}  // namespace

/// What holds the pod, and what came of it. The guard outlives the freeze: it is declared first.
struct PodAgent::Work {
  ImageOrder order;
  Compression compress = Compression::kNone;
  SteadyClock::time_point stopped_at;
  std::optional<FirstToGo> first_to_go;  ///< where what we take is taken from the pod
  std::optional<ThawGuard> guard;
  std::unique_ptr<engine::FrozenPod> frozen;
  numa::PageSurvey pages;  ///< where they were before the stop
  storage::PodImage image;
  std::optional<storage::ImageWriter> writer;
  bool isolated = false;
  std::vector<UniqueFd> outside_sockets;  ///< for the nudges from join() on
};

PodAgent::PodAgent(PodToHold pod) : pod_(std::move(pod)) {}

PodAgent::~PodAgent() { roll_back(); }

std::filesystem::path PodAgent::part_file() const {
  return work_->order.folder / (storage::image_file_name(pod_.pod) + ".part");
}

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
  const bool splits = snapshot_.way() == Snapshot::Way::kTwin;
  const Result<std::vector<pid_t>> processes =
      splits ? engine::group_processes(pod_.group) : std::vector<pid_t>{};
  huge_pages_.note(processes.value_or(std::vector<pid_t>{}));
}

Status PodAgent::prepare_snapshot(const ImageOrder& order) {
  FERMATA_ASSIGN_STATUS(const engine::TrackKind way, engine::parse_track(order.track));
  // Who asks for nothing in particular shall not lose huge pages, which break at the first write.
  const bool spare_huge_pages = order.track.empty() || order.track == "auto";
  tracking_.begin(way, spare_huge_pages, order.parent);
  if (!order.end_job && tracking_.wants_start(pod_.group)) {
    const Status started = start_tracking();
    if (!started) log_info(fmt::format("job {}: {}", to_string(pod_.job), started.message()));
  }
  tracking_.arm(pod_.group);

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

Status PodAgent::record_addresses(image::PodState& state) const {
  FERMATA_ASSIGN_STATUS(const std::vector<NodeAddress> node, addresses_of_this_node());
  for (const NodeAddress& one : node) {
    if (is_global(one.address)) state.add_node_addresses(one.address.bytes());
  }
  for (const std::string& known : pod_.known_addresses) state.add_known_addresses(known);
  if (pod_.known_addresses.empty()) {
    *state.mutable_known_addresses() = state.node_addresses();
  }
  if (pod_.isolation != nullptr) {
    FERMATA_ASSIGN_STATUS(*state.mutable_translations(), pod_.isolation->addresses());
  }
  return {};
}

Status PodAgent::isolate(std::chrono::nanoseconds at_most) {
  Work& work = *work_;
  if (pod_.isolation == nullptr) return {Code::kInternal, "this pod cannot be isolated"};
  // What others have sent comes in until the capture, and again after it: none of it is lost, and
  // nobody waits for a retransmission of it. With no way out for an acknowledgement it also is in
  // the sender's queue, whichever of the two is captured first.
  if (!work.isolated) pod_.isolation->hear(true);
  // The same call prolongs it.
  pod_.isolation->cut(at_most);
  if (work.isolated) return {};
  work.isolated = true;
  FAULT_POINT("isolate.cut");
  return {};
}

Status PodAgent::join() {
  Work& work = *work_;
  if (!work.isolated) return {Code::kInternal, "the pod is not isolated"};
  const bool held = pod_.isolation->still_cut();
  if (work.frozen) work.outside_sockets = work.frozen->take_outside_sockets();
  pod_.isolation->join();
  log_debug(fmt::format("job {}: pod {} has joined", to_string(pod_.job), pod_.pod));
  work.isolated = false;
  engine::send_unsent(work.outside_sockets);
  if (!work.frozen && work.guard) work.guard->dismiss();
  if (held) return {};
  return {Code::kTimeout, "the pod was isolated for longer than allowed, and then no more"};
}

void PodAgent::nudge() {
  if (!work_ || work_->isolated) return;
  engine::nudge(std::exchange(work_->outside_sockets, {}));
  if (!work_->frozen) work_->guard.reset();
}

Status PodAgent::capture(std::chrono::milliseconds deadline) {
  Work& work = *work_;
  outside_.clear();
  StopWatch watch;
  if (!work.guard) {
    FERMATA_ASSIGN_STATUS(work.guard, ThawGuard::start(pod_.group, pod_.init));
  }
  work.stopped_at = SteadyClock::now();
  FAULT_POINT("capture.freeze");
  FERMATA_ASSIGN_STATUS(work.frozen, engine::FrozenPod::freeze(pod_.group, pod_.init,
                                                               static_cast<int>(deadline.count())));
  FAULT_POINT("capture.frozen");
  watch.note("freeze");
  work.image.header.time = storage::utc_now();
  numbers_.time = work.image.header.time;
  if (pod_.allow_outside) work.frozen->allow_outside_connections();
  work.frozen->expect_rank_streams(pod_.rank_streams);
  work.frozen->find_pages_by(tracking_);
  // Sockets are read in several steps.
  if (work.isolated) pod_.isolation->hear(false);
  FERMATA_ASSIGN_STATUS(work.image.objects, work.frozen->capture());
  if (work.isolated) pod_.isolation->hear(true);
  outside_ = work.frozen->outside_connections();
  FERMATA_TRY(record_addresses(*work.image.objects.mutable_pod()));
  watch.note("record");
  FERMATA_ASSIGN_STATUS(work.image.placement,
                        record_placement(*topology_, *work.frozen, work.image.objects, work.pages));
  FAULT_POINT("capture.recorded");
  watch.note("placement");

  FERMATA_ASSIGN_STATUS(work.image.memory,
                        snapshot_.take(*work.frozen, work.image.objects, tracking_));
  make_stoppable(work.image.memory, pod_.stop);
  numbers_.snapshot = snapshot_.name();
  FAULT_POINT("capture.copied");
  watch.note(numbers_.snapshot);
  if (snapshot_.way() != Snapshot::Way::kStopped) {
    FERMATA_TRY(let_run());
    watch.note("let run");
    numbers_.copied = true;
  }
  log_debug(fmt::format("job {} stood still:{}", to_string(pod_.job), watch.text()));
  return {};
}

Status PodAgent::let_run() {
  if (!work_ || !work_->frozen) return {};
  // Those that are connected with others; they are not ours to keep open.
  if (work_->isolated) work_->outside_sockets = work_->frozen->take_outside_sockets();
  Status resumed = work_->frozen->resume();
  work_->frozen.reset();
  if (!work_->isolated) work_->guard.reset();
  numbers_.stand_still = SteadyClock::now() - work_->stopped_at;
  return resumed;
}

Status PodAgent::write_back() {
  Work& work = *work_;
  nudge();  // all pods have joined
  std::vector<MemoryRegion>& memory = work.image.memory;
  FERMATA_TRY(tracking_.trim(memory, snapshot_.way() == Snapshot::Way::kCopy, kThreads));
  numbers_.memory_bytes = bytes_in_all(memory);
  if (tracking_.incremental() && bytes_here(memory) < numbers_.memory_bytes) {
    work.image.header.parent = work.order.parent;
  }
  numbers_.parent = work.image.header.parent;
  tracking_.remember(work.order.crid, memory);
  {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(pod_.owner));
    FERMATA_ASSIGN_STATUS(work.writer,
                          storage::ImageWriter::create(part_file(), work.image, work.compress));
    work.image.memory.clear();
    // A pod that stands still waits for this.
    const bool waited_for = work.frozen != nullptr;
    FERMATA_TRY(
        work.writer->write_pages({.threads = kThreads,
                                  .background = !waited_for,
                                  .bytes_per_second = waited_for ? 0 : pod_.write_bandwidth}));
  }
  snapshot_.release();
  huge_pages_.mend();
  FAULT_POINT("write_back.pages");
  if (!work.order.end_job) FERMATA_TRY(let_run());

  FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(pod_.owner));
  FERMATA_ASSIGN_STATUS(storage::WrittenImage written, work.writer->finish());
  numbers_.image = storage::image_file_name(pod_.pod);
  numbers_.image_bytes = written.bytes;
  numbers_.digest = std::move(written.digest);
  if (work.frozen) numbers_.stand_still = SteadyClock::now() - work.stopped_at;  // and goes on
  return {};
}

Status PodAgent::commit() {
  FAULT_POINT("commit.rename");
  {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(pod_.owner));
    FERMATA_TRY(storage::publish(part_file(), work_->order.folder / numbers_.image));
  }
  // Of a pod that runs nothing is left to be done or undone.
  if (!work_->frozen) work_.reset();
  return {};
}

void PodAgent::roll_back() {
  if (!work_) return;
  // First of all: the job runs on.
  const Status resumed = let_run();
  if (!resumed) log_error(fmt::format("job {}: {}", to_string(pod_.job), resumed.message()));
  if (work_->isolated) {
    const Status joined = join();
    if (!joined) log_info(fmt::format("job {}: {}", to_string(pod_.job), joined.message()));
  }
  nudge();
  snapshot_.release();
  {
    // With the owner's rights. Without them it may fail: then the next attempt removes the file.
    // One that has its name already may be of a committed set, and is for the coordinator to judge.
    const Result<FsCredentialScope> scope = FsCredentialScope::enter(pod_.owner);
    if (work_->writer) {
      work_->writer.reset();
      unlink(part_file().c_str());
    }
  }
  work_.reset();
  huge_pages_.mend();
}

bool PodAgent::stands_still() const { return work_ && work_->frozen; }

Status PodAgent::end_job() {
  if (!work_ || !work_->frozen) return {Code::kInternal, "the pod does not stand still"};
  Status killed = work_->frozen->kill();
  numbers_.stand_still = SteadyClock::now() - work_->stopped_at;
  work_.reset();
  return killed;
}

Result<AbleAnswer> PodAgent::able(std::chrono::milliseconds deadline) {
  roll_back();
  FERMATA_TRY_RESULT(have_memory());
  FERMATA_TRY_RESULT(read_topology());
  const numa::PageSurvey pages = survey_placement(pod_.group);
  engine::MapFlags::of_this_kernel();
  AbleAnswer answer;
  FERMATA_ASSIGN(const ThawGuard guard, ThawGuard::start(pod_.group, pod_.init));
  const SteadyClock::time_point stopped_at = SteadyClock::now();
  FERMATA_ASSIGN(
      const std::unique_ptr<engine::FrozenPod> frozen,
      engine::FrozenPod::freeze(pod_.group, pod_.init, static_cast<int>(deadline.count())));
  if (pod_.allow_outside) frozen->allow_outside_connections();
  frozen->expect_rank_streams(pod_.rank_streams);
  Onlooker onlooker(tracking_);
  frozen->find_pages_by(onlooker);
  FERMATA_ASSIGN(const image::PodObjects objects, frozen->capture());
  outside_ = frozen->outside_connections();
  FERMATA_TRY_RESULT([&]() -> Status {
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const image::Placement placement,
                          record_placement(*topology_, *frozen, objects, pages));
    return {};
  }());
  answer.memory_bytes = bytes_here(frozen->memory());
  answer.image_bytes = storage::expected_image_bytes(objects, frozen->memory());
  answer.processes = frozen->processes().size();
  for (const engine::FrozenProcess& process : frozen->processes()) {
    answer.threads += process.threads.size();
  }
  FERMATA_TRY_RESULT(frozen->resume());
  answer.stand_still = SteadyClock::now() - stopped_at;
  return answer;
}

}  // namespace fermata::node_agent
