// How a pod comes back from an image: the three orders of a restart.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/fault_point.h"
#include "common/log.h"
#include "node-agent/job_streams.h"
#include "node-agent/pod_worker.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

// A pod that stands is cut off until it runs; with its agent it would end anyway.
constexpr std::chrono::hours kRebuildCut{24};

}  // namespace

RestoreOrder PodWorker::restore_order(const wire::RestoreOrder& wanted) {
  RestoreOrder order;
  order.job = record_.id.step;
  order.saved = wire::from_wire(wanted.saved()).step;
  order.pod = wanted.saved().pod();
  order.crid = Crid{wanted.crid()};
  order.image = wanted.image();
  order.digest = wanted.digest();
  order.owner = record_.owner;
  order.node = settings_.node;
  order.stop = [this] { return queue_.stop(); };
  order.on_image = [this](const image::PodObjects& objects) -> Status {
    FERMATA_ASSIGN_STATUS(then_, addresses_then(objects.pod()));
    record_.known_addresses.assign(objects.pod().known_addresses().begin(),
                                   objects.pod().known_addresses().end());
    // Not every step of Slurm's was one when the set was taken. Streams that are one open file
    // count as the first of them.
    const int most = kStreamsOfRank * static_cast<int>(record_.ranks_here().size());
    record_.rank_streams = 0;
    for (const image::File& file : objects.files()) {
      if (!file.has_stdio() || file.stdio().stream() < kStreamsOfRank) continue;
      const int streams = std::min(file.stdio().stream() - kStreamsOfRank + 1, most);
      record_.rank_streams = std::max(record_.rank_streams, streams);
    }
    if (record_.rank_streams > 0 && !record_.stubs) {
      return {Code::kUsage, "the set is of a step of Slurm's: `srun --restart` continues it"};
    }
    return {};
  };
  order.group = group_spec();
  order.network.address_here = [this](const engine::InetAddress& then) {
    return address_here(then, node_);
  };
  order.network.exchange = [this](const image::AddressMap& own) { return exchange_addresses(own); };
  order.network.reset_outside = wanted.reset_outside();
  order.placement_file = registry_.placement_of(record_.id);
  order.lazy = wanted.lazy();
  order.all_came = [this] { registry_.note_memory_came(record_.id); };
  return order;
}

void PodWorker::restore(const wire::Order& order) {
  const wire::RestoreOrder& wanted = order.restore();
  open_ = open(order);
  barrier_by_ = open_->next_by();
  const auto start = [&]() -> Status {
    FERMATA_ASSIGN_STATUS(const Credentials owner,
                          credentials_of(std::to_string(wanted.owner_uid())));
    know_step(wanted.shape(), owner, wanted.checkpoint_dir());
    FERMATA_ASSIGN_STATUS(node_, addresses_of_this_node());
    FERMATA_ASSIGN_STATUS(const std::unique_ptr<StepPart> tasks, step_part(wanted.stubs()));
    RestoreOrder request = restore_order(wanted);
    if (!wanted.numa().empty()) {
      FERMATA_ASSIGN_STATUS(request.numa, numa::parse_mode(wanted.numa()));
    }
    JobStreams streams;
    if (tasks) {
      request.stdio = tasks->pod_streams();
      request.model = &tasks->model;
    } else {
      FERMATA_ASSIGN_STATUS(streams,
                            open_streams(wanted.streams(), record_.id, settings_.node, owner));
      const std::array<int, 3> fds = streams.fds();
      request.stdio.assign(fds.begin(), fds.end());
    }
    Result<RestoredPod> restored =
        node_agent::restore(request, [&](const StandingPod& standing) -> Status {
          if (request.lazy) FERMATA_TRY(registry_.note_memory_comes(record_.id));
          return wait_for_go(standing);
        });
    if (!restored) {
      // What its sockets leave behind in the kernel goes sooner.
      if (isolation_) isolation_->join();
      return restored.error();
    }
    lazy_ = std::move(restored->lazy);
    return hold_new(std::move(restored->pod));
  };
  const Status started = start();
  if (!started) {
    log_warning(
        fmt::format("pod {} was not restarted: {}", to_string(record_.id), started.message()));
    never_stood();
  }
  const std::optional<Open> last = std::exchange(open_, std::nullopt);
  if (!started) over(std::nullopt);
  if (last) answer(*last, started);
}

Result<wire::Order> PodWorker::wait_for(wire::Order::KindCase wanted, Time deadline) {
  for (;;) {
    Wake wake = queue_.wait(-1, deadline);
    switch (wake.kind) {
      case Wake::Kind::kOrder:
        if (wake.order.kind_case() == wanted) return std::move(wake.order);
        if (wake.order.has_destroy()) {
          queue_.put_back(std::move(wake));
          return failure(Code::kGone, "the restart was given up");
        }
        answer(wake.order,
               {Code::kBusy, fmt::format("pod {} is being restarted", to_string(record_.id))});
        break;
      case Wake::Kind::kQuit:
        queue_.put_back(std::move(wake));
        return failure(Code::kGone, "the agent ends");
      case Wake::Kind::kLost:
        return failure(Code::kGone, "the coordinator is lost");
      default:
        return failure(Code::kTimeout, "the other pods were not ready in time");
    }
  }
}

Result<image::AddressMap> PodWorker::exchange_addresses(const image::AddressMap& own) {
  // Its own sockets have said to each other what they had to (engine/rebuild.h).
  isolation_->cut(kRebuildCut);
  told_ = addresses_to_tell(
      own, then_, [this](const engine::InetAddress& then) { return address_here(then, node_); });
  answer(*open_, Status::ok(), [this](wire::Done& done) { *done.mutable_addresses() = *told_; });
  open_.reset();
  FERMATA_ASSIGN(const wire::Order connect, wait_for(wire::Order::kConnect, barrier_by_));
  open_ = open(connect);
  barrier_by_ = open_->next_by();
  all_ = connect.connect().addresses();
  return wire_addresses(*told_, all_);
}

Status PodWorker::wait_for_go(const StandingPod& standing) {
  if (!told_) {  // nothing in it has an address
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const image::AddressMap none, exchange_addresses({}));
  }
  answer(*open_, Status::ok(), [&](wire::Done& done) {
    for (const std::string& note : standing.notes) done.add_notes(note);
  });
  open_.reset();
  FERMATA_ASSIGN_STATUS(const wire::Order go, wait_for(wire::Order::kGo, barrier_by_));
  open_ = open(go);
  if (!isolation_->still_cut()) {
    return {Code::kTimeout, "the pod was not cut off from the others until it was to run"};
  }
  FERMATA_TRY(isolation_->set_addresses(translations(*told_, all_)));
  FERMATA_TRY(put_record(standing.pod));
  FAULT_POINT("restore.go");
  isolation_->join();
  return {};
}

}  // namespace fermata::node_agent
