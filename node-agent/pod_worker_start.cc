// How a pod comes to be under an agent: launched, or taken over from one that ended.
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "common/fault_point.h"
#include "common/log.h"
#include "node-agent/job_streams.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod_worker.h"
#include "node-agent/record_file.h"
#include "node-agent/thaw_guard.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

using std::chrono::steady_clock;

constexpr int kRemoveDeadlineMs = 20'000;

/// `<job>.<step>.<pod>`: several pods of a step may be on one node.
std::string group_name(const PodId& id) { return fmt::format("{}.{}", to_string(id.step), id.pod); }

std::vector<std::string> strings_of(const google::protobuf::RepeatedPtrField<std::string>& all) {
  return {all.begin(), all.end()};
}

void become_tasks(const StepPart& part, pod::PodSpec& spec) {
  const std::vector<int> streams = part.pod_streams();
  std::copy_n(streams.begin(), spec.stdio.size(), spec.stdio.begin());
  for (const TaskPart& task : part.tasks) {
    pod::RankSpec& rank = spec.ranks_here.emplace_back();
    rank.program = task.command.program;
    rank.command = task.command.command;
    rank.environment = task.command.environment;
    rank.processors = task.processors;
    for (size_t stream = 0; stream < rank.stdio.size(); ++stream) {
      rank.stdio.at(stream) = task.streams.at(stream).get();
    }
  }
  spec.command = part.tasks.front().command.command;
  spec.working_directory = part.tasks.front().command.working_directory;
  spec.model = &part.model;
}

}  // namespace

Result<std::unique_ptr<StepPart>> PodWorker::step_part(bool stubs) {
  if (!stubs) return nullptr;
  if (settings_.steps == nullptr) {
    return failure(Code::kUnsupported, "this agent has nothing to do with Slurm");
  }
  record_.stubs = true;
  FERMATA_ASSIGN(StepPart part, settings_.steps->take(record_.id, record_.ranks_here()));
  if (part.uid != record_.owner.uid) {
    return failure(Code::kPermission,
                   fmt::format("Slurm's step {} is another user's", to_string(record_.id.step)));
  }
  // A job's groups need not be those that the user has by now (sbatch --gid, newgrp).
  record_.owner.gid = part.gid;
  record_.owner.groups = part.groups;
  for (const TaskPart& task : part.tasks) record_.stub_processes.push_back(task.stub);
  return std::make_unique<StepPart>(std::move(part));
}

ExchangeFolder::Sender PodWorker::exchange_sender() const {
  if (!record_.stubs || settings_.steps == nullptr) return events_.exchange;
  return [steps = settings_.steps, id = record_.id, up = events_.exchange,
          ends = ends_](wire::ExchangeUp said) {
    if (said.has_rank_ended()) {
      const auto& ended = said.rank_ended();
      // First: once podinit knows that it was heard, nobody else does.
      if (ends) ends->ended(ended.rank(), ended.wait_status());
      steps->rank_ended(id, ended.rank(), ended.wait_status());
    } else {
      up(std::move(said));
    }
  };
}

void PodWorker::know_step(const wire::StepShape& shape, const Credentials& owner,
                          const std::string& folder) {
  record_.owner = owner;
  record_.pod_of_rank.assign(shape.pod_of_rank().begin(), shape.pod_of_rank().end());
  record_.folder = folder;
  record_.started = std::time(nullptr);
}

pod::GroupSpec PodWorker::group_spec() {
  pod::GroupSpec spec;
  spec.name = group_name(record_.id);
  spec.prepare = [this](const std::filesystem::path& group) -> Status {
    record_.group = group;
    FERMATA_TRY(registry_.put(record_));
    FERMATA_ASSIGN_STATUS(isolation_, isolation::Isolation::install(group));
    FAULT_POINT("start.group");
    const std::lock_guard lock(mutex_);
    if (queue_.stop() || abandoned_) {
      return {Code::kGone, "given up before the pod was started"};
    }
    group_ = group;
    return {};
  };
  return spec;
}

Status PodWorker::put_record(const pod::Pod& pod) {
  record_.init = pod.init_pid();
  record_.init_start = process_start_time(record_.init);
  return registry_.put(record_);
}

Status PodWorker::launch(const wire::LaunchOrder& launch) {
  FERMATA_ASSIGN_STATUS(const Credentials owner,
                        credentials_of(std::to_string(launch.owner_uid())));
  const auto start = [&]() -> Status {
    const wire::StepShape& shape = launch.shape();
    pod::PodSpec spec;
    spec.job = record_.id.step;
    spec.ranks = shape.ranks();
    spec.pod = record_.id.pod;
    spec.pod_of_rank.assign(shape.pod_of_rank().begin(), shape.pod_of_rank().end());
    spec.hosts = strings_of(shape.hosts());
    spec.command = strings_of(launch.command());
    spec.environment = strings_of(launch.environment());
    spec.working_directory = launch.working_directory();
    spec.group = group_spec();
    know_step(shape, owner, launch.checkpoint_dir());
    FERMATA_ASSIGN_STATUS(const std::unique_ptr<StepPart> tasks, step_part(launch.stubs()));
    spec.user = record_.owner;
    if (tasks) {
      become_tasks(*tasks, spec);
      record_.rank_streams = kStreamsOfRank * static_cast<int>(tasks->tasks.size());
    }
    record_.command = spec.command;
    FERMATA_ASSIGN_STATUS(node_, addresses_of_this_node());
    for (const NodeAddress& one : node_) {
      if (is_global(one.address)) record_.known_addresses.push_back(one.address.bytes());
    }
    JobStreams streams;
    if (!tasks) {
      FERMATA_ASSIGN_STATUS(streams,
                            open_streams(launch.streams(), record_.id, settings_.node, owner));
      spec.stdio = streams.fds();
    }
    FERMATA_ASSIGN_STATUS(pod::Pod pod, pod::Pod::launch(spec));
    Status recorded = [&]() -> Status {
      FERMATA_TRY(put_record(pod));
      FAULT_POINT("launch.started");
      return {};
    }();
    if (recorded) return hold_new(std::move(pod));
    destroy_new(pod);
    return recorded;
  };
  Status started = start();
  if (!started) never_stood();
  return started;
}

Status PodWorker::hold_new(pod::Pod pod) {
  Status held = hold(pod);
  if (!held) {
    destroy_new(pod);
    return held;
  }
  // From here on each Hello names it.
  if (!queue_.lost_waits()) return held;
  forget();
  agent_.reset();
  destroy_new(*pod_);
  pod_.reset();
  return {Code::kGone, "the coordinator was lost while the pod was being started"};
}

void PodWorker::destroy_new(pod::Pod& pod) {
  const Status destroyed = pod.destroy();
  if (destroyed) {
    no_more_memory();
    return;
  }
  stays_ = true;
  log_error(
      fmt::format("pod {} was given up, and cannot be ended: {}; an agent that is started "
                  "anew tries again",
                  to_string(record_.id), destroyed.message()));
}

void PodWorker::no_more_memory() {
  if (lazy_ == nullptr) return;
  const Status loss = lazy_->loss();
  if (!loss && record_.reason.empty()) record_.reason = loss.message();
  agent_.reset();  // it asks whether all has come
  lazy_.reset();
  registry_.note_memory_came(record_.id);
}

void PodWorker::never_stood() {
  forget();
  if (!stays_) registry_.remove(record_.id);
}

bool PodWorker::abandoned() const {
  const std::lock_guard lock(mutex_);
  return abandoned_;
}

Status PodWorker::hold(pod::Pod& pod) {
  PodToHold held;
  held.job = record_.id.step;
  held.init = pod.init_pid();
  held.group = pod.group();
  held.owner = record_.owner;
  held.pod = record_.id.pod;
  held.isolation = isolation_ ? &*isolation_ : nullptr;
  held.allow_outside = true;
  held.known_addresses = record_.known_addresses;
  held.stop = [this] { return queue_.stop(); };
  held.write_bandwidth = settings_.write_bandwidth;
  held.rank_streams = record_.rank_streams;
  held.compress = settings_.compress;
  held.precopy = settings_.precopy;
  held.lazy = lazy_.get();

  if (record_.stubs) {
    if (!adopt_) unlink(registry_.ends_of(record_.id).c_str());
    Result<std::shared_ptr<RankEnds>> ends =
        RankEnds::open(registry_.ends_of(record_.id), record_.ranks_here());
    // A pod that runs already runs on without.
    if (!ends && !adopt_) return ends.error();
    if (!ends) log_error(ends.error().message());
    const std::lock_guard lock(mutex_);
    if (ends) ends_ = *std::move(ends);
    if (adopt_) ending_signal_ = read_rank_ends(registry_.ends_of(record_.id)).signal;
  }
  std::unique_ptr<ExchangeFolder> exchange;
  if (record_.has_peers() || record_.stubs) {
    Result<std::unique_ptr<ExchangeFolder>> folder =
        ExchangeFolder::start(pod.init_pid(), record_.id, record_.owner, exchange_sender());
    // A pod that runs already runs on without: its ranks may never need the others again. One of
    // short programs may have ended by now, which is told as every end is.
    const bool ended = !folder && folder.error().code() == Code::kGone;
    if (!folder && !adopt_ && !ended) return folder.error();
    if (folder) {
      exchange = *std::move(folder);
    } else if (!ended) {
      log_error(folder.error().message());
    }
  }
  wire::LivingPod living;
  *living.mutable_id() = wire::to_wire(record_.id);
  living.set_owner_uid(record_.owner.uid);
  for (const uint32_t number : record_.pod_of_rank) living.add_pod_of_rank(number);

  if (abandoned()) return {Code::kGone, "given up while the pod was being started"};
  agent_ = std::make_unique<PodAgent>(std::move(held));
  pod_ = std::move(pod);
  // Before the first of its ranks can be said to have ended.
  if (record_.stubs && settings_.steps != nullptr) settings_.steps->started(record_.id);
  const std::lock_guard lock(mutex_);
  group_ = pod_->group();
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pod_->init_pid(), 0)));
  living_ = std::move(living);
  exchange_ = std::move(exchange);
  // Only now: an answer to what it says finds its way back.
  if (exchange_) exchange_->resend();
  return {};
}

// ---- taken over

Status PodWorker::adopt() {
  Status taken;
  // LazyRestore's guard ends it, unless that was killed as well: it must not run on without.
  const bool incomplete = registry_.memory_comes(record_.id);
  if (record_.init > 0 && incomplete) {
    record_.reason =
        "the agent died while memory of the restart was being read, and the pod with it; the "
        "checkpoint is there as before";
    clear_away();
    return {Code::kGone, record_.reason};
  }
  if (record_.alive()) {
    taken = take_over();
    if (taken) return taken;
    // It would run on with nobody to tend it, perhaps cut off, and be told of as ended.
    taken = taken.within("it could not be taken over and was ended");
  } else {
    // It may have been in the making: then nobody has heard of it, and nothing of it stays.
    taken = {Code::kGone, record_.init < 0 ? "the agent died while the pod was being started"
                                           : "the pod ended while no agent was there"};
  }
  record_.reason = taken.message();
  if (record_.stubs && !record_.alive()) know_ends();
  clear_away();
  return taken;
}

/// Of a pod that ended by itself: its ranks may have told the agent before.
void PodWorker::know_ends() {
  const KnownEnds ends = read_rank_ends(registry_.ends_of(record_.id));
  record_.wait_status = ends.status_of(record_.ranks_here());
  if (record_.wait_status) record_.reason.clear();
  if (ends.signal != 0) record_.reason = by_signal(ends.signal);
}

void PodWorker::clear_away() {
  if (!record_.group.empty()) {
    if (isolation_) isolation_->join();
    const Status killed = pod::kill_group(record_.group);
    if (!killed) log_error(killed.message());
    const Status removed = pod::remove_group(record_.group, kRemoveDeadlineMs);
    if (!removed) log_error(removed.message());
  }
  record_.ended = true;
  if (const Status put = registry_.put(record_); !put) log_error(put.message());
}

Status PodWorker::take_over() {
  FERMATA_ASSIGN_STATUS(pod::Pod pod,
                        pod::Pod::adopt(record_.id.step, record_.init, record_.group));
  const Status thawed = thaw_group(record_.group, record_.init);
  if (!thawed) log_error(thawed.message());
  Result<isolation::Isolation> isolation = isolation::Isolation::find(record_.group);
  if (isolation) {
    isolation->join();
    isolation_ = *std::move(isolation);
  } else {
    log_error(fmt::format("pod {} cannot be held: {}", to_string(record_.id),
                          isolation.error().message()));
  }
  return hold(pod);
}

}  // namespace fermata::node_agent
