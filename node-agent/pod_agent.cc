#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "common/extents.h"
#include "common/fault_point.h"
#include "common/log.h"
#include "node-agent/addresses.h"
#include "node-agent/engine/capture.h"
#include "node-agent/engine/map_flags.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/pod_agent_work.h"
#include "node-agent/pod_placement.h"
#include "node-agent/stoppable_source.h"
#include "numa/topology.h"
#include "storage/image_writer.h"
#include "storage/manifest.h"

namespace fermata::node_agent {
namespace {

constexpr unsigned kThreads = 2;  // more gain little: disk and memory are shared with the job

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

PodAgent::PodAgent(PodToHold pod) : pod_(std::move(pod)) {}

PodAgent::~PodAgent() { roll_back(); }

std::filesystem::path PodAgent::part_file() const {
  return work_->order.folder / (storage::image_file_name(pod_.pod) + ".part");
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
  if (snapshot_.by_twins()) work.frozen->expect_twins();
  // Sockets are read in several steps.
  if (work.isolated) pod_.isolation->hear(false);
  FERMATA_ASSIGN_STATUS(work.image.objects, work.frozen->capture());
  if (work.isolated) pod_.isolation->hear(true);
  outside_ = work.frozen->outside_connections();
  FERMATA_TRY(record_addresses(*work.image.objects.mutable_pod()));
  FAULT_POINT("capture.recorded");
  watch.note("record");
  FERMATA_ASSIGN_STATUS(work.image.memory,
                        snapshot_.take(*work.frozen, work.image.objects, tracking_));
  make_stoppable(work.image.memory, pod_.stop);
  numbers_.snapshot = snapshot_.name();
  FAULT_POINT("capture.copied");
  watch.note(numbers_.snapshot);
  // Now that processes which made twins can be asked again.
  FERMATA_ASSIGN_STATUS(work.image.placement,
                        record_placement(*topology_, *work.frozen, work.image.objects, work.pages));
  watch.note("placement");
  if (snapshot_.way() != Snapshot::Way::kStopped) {
    if (snapshot_.way() == Snapshot::Way::kBounded) {
      work.bound = std::make_unique<CopyBound>(pod_.group, pod_.init, *work.room,
                                               *std::exchange(work.guard, std::nullopt),
                                               snapshot_.twin_processes());
    }
    FERMATA_TRY(let_run());
    if (work.bound) FERMATA_TRY(work.bound->begin(work.writers, work.reserved));
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

Status PodAgent::end_bound(const Status& so_far) {
  if (!work_->bound) return so_far;
  const bool lost = work_->bound->lost_a_twin();
  if (!so_far) work_->bound->end_twins();
  work_->bound->end();
  numbers_.held = work_->bound->held();
  Status trouble = work_->bound->trouble();
  work_->bound.reset();
  if (!trouble || so_far) return trouble;
  if (!lost) return so_far;
  snapshot_.was_too_tight();
  return {Code::kBusy,
          fmt::format("memory ran out while the set was written, and the kernel ended the copy "
                      "that it is written from ({})",
                      so_far.message())};
}

Status PodAgent::write_back() {
  Work& work = *work_;
  nudge();  // all pods have joined
  std::vector<MemoryRegion>& memory = work.image.memory;
  if (const Status found = snapshot_.find_the_rest(memory); !found) return end_bound(found);
  // Somebody stands still until it is done.
  const auto waited_for = [&work] {
    return work.frozen != nullptr || (work.bound && work.bound->holds());
  };
  const Status trimmed = tracking_.trim(memory, {.cheap = snapshot_.way() == Snapshot::Way::kCopy,
                                                 .last = work.order.end_job,
                                                 .threads = kThreads,
                                                 .waited_for = waited_for});
  if (!trimmed) return end_bound(trimmed);
  numbers_.memory_bytes = bytes_in_all(memory);
  if (tracking_.incremental() && bytes_here(memory) < numbers_.memory_bytes) {
    work.image.header.parent = work.order.parent;
  }
  numbers_.parent = work.image.header.parent;
  tracking_.remember(work.order.crid, memory);
  for (const MemoryRegion& region : memory) {
    if (region.source) region.source->read_once(only(region.extents, Where::kHere));
  }
  {
    FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(pod_.owner));
    FERMATA_ASSIGN_STATUS(work.writer,
                          storage::ImageWriter::create(part_file(), work.image, work.compress));
    work.image.memory.clear();
    const Status written = work.writer->write_pages(
        {.threads = kThreads,
         .background = true,
         .bytes_per_second = pod_.write_bandwidth,
         .waited_for = waited_for,
         .memory_is_short = [&work] { return work.bound && work.bound->is_short(); }});
    FERMATA_TRY(end_bound(written));
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
  if (work_->bound) {
    log_info(end_bound({Code::kInternal, "the attempt has failed"}).message());
  }
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
