#include "node-agent/restore.h"

#include <fmt/format.h>

#include "common/fault_point.h"
#include "common/log.h"
#include "node-agent/engine/rebuild.h"
#include "node-agent/pod_placer.h"
#include "node-agent/read_ahead.h"
#include "node-agent/stoppable_source.h"
#include "storage/chain.h"
#include "storage/set_lock.h"

namespace fermata::node_agent {
namespace {

/// Passes reads on and tells how much was read.
class ToldSource final : public MemorySource {
 public:
  ToldSource(std::shared_ptr<const MemorySource> source, std::function<void(uint64_t)> on_read)
      : source_(std::move(source)), on_read_(std::move(on_read)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    Status status = source_->read(address, out);
    if (status) on_read_(out.size());
    return status;
  }

 private:
  std::shared_ptr<const MemorySource> source_;
  std::function<void(uint64_t)> on_read_;
};

/// Reads the image with the owner's rights and compares it with what it should be.
Result<storage::PodImage> read_checked(const RestoreOrder& order) {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(order.owner));
  FERMATA_ASSIGN(storage::PodImage image, storage::read_chain(order.image, order.digest));
  const JobStep saved = order.saved.value_or(order.job);
  const storage::ImageHeader& header = image.header;
  if (header.crid != order.crid || header.job != saved || header.pod != order.pod) {
    return failure(Code::kDamaged,
                   fmt::format("{}: holds set {} of job {}, pod {}, not set {} of job {}, pod {}",
                               order.image.string(), to_string(header.crid), to_string(header.job),
                               header.pod, to_string(order.crid), to_string(saved), order.pod));
  }
  // What is read later is read by nobody that could be told.
  if (order.lazy) return image;
  make_stoppable(image.memory, order.stop);
  if (order.on_read) {
    for (MemoryRegion& region : image.memory) {
      if (region.source) {
        region.source = std::make_shared<ToldSource>(std::move(region.source), order.on_read);
      }
    }
  }
  return image;
}

timespec time_of(const image::Timespec& time) {
  timespec out{};
  out.tv_sec = time.sec();
  out.tv_nsec = time.nsec();
  return out;
}

/// Of the memory that comes later: its set and those it builds on stay as long. Fewer, or none,
/// where there are no such locks: that is logged. kBusy: somebody works on one of them.
Result<std::vector<UniqueFd>> keep_sets(const RestoreOrder& order) {
  FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(order.owner));
  std::vector<UniqueFd> locks;
  const auto keep = [&](const std::filesystem::path& folder) -> Status {
    Result<UniqueFd> lock = storage::lock_set_to_read(folder);
    if (lock) {
      locks.push_back(*std::move(lock));
      return Status::ok();
    }
    if (lock.error().code() == Code::kBusy) {
      return {Code::kBusy,
              lock.error().message() + "; wait until that is done, or restart without --lazy"};
    }
    log_warning(fmt::format("{}; do not prune or compact it while job {} has its memory read",
                            lock.error().message(), to_string(order.job)));
    return Status::ok();
  };
  FERMATA_TRY_RESULT(keep(order.image.parent_path()));
  // Only now: compact has the set build on nothing. What cannot be followed is told where it is
  // read.
  const Result<std::vector<storage::ChainImage>> chain =
      storage::chain_of(order.image, order.digest);
  if (!chain) return locks;
  for (size_t i = 1; i < chain->size(); ++i) {
    FERMATA_TRY_RESULT(keep((*chain)[i].path.parent_path()));
  }
  return locks;
}

/// Destroys a pod that did not come to run.
class PodUndo {
 public:
  explicit PodUndo(pod::Pod& pod) : pod_(&pod) {}
  PodUndo(const PodUndo&) = delete;
  PodUndo& operator=(const PodUndo&) = delete;
  ~PodUndo() {
    if (pod_ != nullptr) [[maybe_unused]]
      const Status destroyed = pod_->destroy();
  }
  void dismiss() { pod_ = nullptr; }

 private:
  pod::Pod* pod_;
};

}  // namespace

Result<RestoredPod> restore(const RestoreOrder& order,
                            const std::function<Status(const StandingPod&)>& before_run) {
  std::vector<UniqueFd> set_locks;
  if (order.lazy) {
    FERMATA_ASSIGN(set_locks, keep_sets(order));
  }
  FERMATA_ASSIGN(storage::PodImage image, read_checked(order));
  const auto damaged = [&](const Status& status) {
    return Failure(status.within(order.image.string()));
  };
  if (Status valid = engine::validate(image.objects, image.memory); !valid) return damaged(valid);
  if (Status met = engine::check_requirements(image.objects.needs()); !met) {
    met = met.within(order.image.string());
    return Failure(order.node.empty() ? met : met.within("node " + order.node));
  }
  if (order.on_image) {
    if (Status taken = order.on_image(image.objects); !taken) return damaged(taken);
  }
  if (!order.lazy) begin_to_read_ahead(image.memory);
  const image::PodState& state = image.objects.pod();
  FERMATA_ASSIGN(pod::Pod pod,
                 pod::Pod::make_shell(order.job, state.host_name(), state.domain_name(),
                                      {time_of(state.monotonic()), time_of(state.boottime())},
                                      order.group, order.model));
  // Outlives what ends the pod: without it the pod would see zeros.
  std::unique_ptr<LazyRestore> lazy;
  PodUndo undo(pod);
  FAULT_POINT("restore.shell");
  Result<PodPlacer> placer = PodPlacer::plan(image.placement, order.numa, pod.init_pid());
  if (!placer) return damaged(placer.error());

  engine::RebuildRequest request;
  request.objects = &image.objects;
  request.memory = &image.memory;
  request.init = pod.init_pid();
  request.owner = order.owner;
  request.stdio = order.stdio;
  request.network = order.network;
  request.before_contents = [&](const engine::FrozenProcess& process, engine::Remote& remote) {
    return placer->before_contents(process, remote);
  };
  request.after_contents = [&](const engine::FrozenProcess& process, engine::Remote& remote) {
    return placer->after_contents(process, remote);
  };
  request.each_thread = [&](const engine::FrozenProcess& process,
                            const engine::FrozenThread& thread, engine::Remote& remote) {
    return placer->each_thread(process, thread, remote);
  };
  if (order.lazy) {
    FERMATA_ASSIGN(lazy, LazyRestore::start(pod.init_pidfd(), pod.group(), std::move(set_locks),
                                            order.all_came));
    request.lazy = lazy->fill();
  }
  // What building touches is read now: a loss that ended the pod is told, not that it has ended.
  const auto because = [&](const Status& status) {
    const Status loss = lazy ? lazy->loss() : Status::ok();
    return Failure(loss ? status : loss);
  };
  Result<std::unique_ptr<engine::RebuiltPod>> built = engine::rebuild(request);
  if (!built) return because(built.error());
  const std::unique_ptr<engine::RebuiltPod> rebuilt = *std::move(built);
  placer->bind(rebuilt->processes());
  FERMATA_TRY_RESULT(before_run({pod, placer->notes()}));
  if (!order.placement_file.empty()) FERMATA_TRY_RESULT(placer->save(order.placement_file));
  if (lazy) {
    FERMATA_TRY_RESULT(lazy->let_run(image.objects, image.memory, rebuilt->processes(),
                                     placer->settle_later(rebuilt->processes())));
  }
  FAULT_POINT("restore.run");
  if (const Status runs = rebuilt->run(); !runs) return because(runs);
  if (lazy) lazy->runs();
  undo.dismiss();

  const size_t processes = rebuilt->processes().size();
  uint64_t bytes = 0;
  for (const MemoryRegion& region : image.memory) bytes += region.bytes_here();
  return RestoredPod{std::move(pod), std::move(lazy), bytes, processes, placer->notes()};
}

}  // namespace fermata::node_agent
