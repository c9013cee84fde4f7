#include "node-agent/pod_host.h"

#include <utility>

#include "node-agent/pod_worker.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

PodRecord record_for(const PodId& pod) {
  PodRecord record;
  record.id = pod;
  return record;
}

}  // namespace

PodHost::PodHost(const PodId& pod, PodHostSettings settings, PodHostEvents events)
    : worker_(std::make_unique<PodWorker>(record_for(pod), false, std::move(settings),
                                          std::move(events))) {}

PodHost::PodHost(PodRecord adopted, PodHostSettings settings, PodHostEvents events)
    : worker_(std::make_unique<PodWorker>(std::move(adopted), true, std::move(settings),
                                          std::move(events))) {}

PodHost::~PodHost() = default;

void PodHost::order(wire::Order order) { worker_->order(std::move(order)); }
void PodHost::deliver(wire::ExchangeDown message) { worker_->deliver(std::move(message)); }
void PodHost::coordinator_lost() { worker_->coordinator_lost(); }
void PodHost::coordinator_back() { worker_->coordinator_back(); }
void PodHost::signal_rank(uint32_t rank, int signo) { worker_->signal_rank(rank, signo); }
void PodHost::kill() { worker_->kill(); }
std::optional<wire::LivingPod> PodHost::living() const { return worker_->living(); }

wire::PodEnded report_of(const PodRecord& record) {
  wire::PodEnded report;
  *report.mutable_id() = wire::to_wire(record.id);
  report.set_status_known(record.wait_status.has_value());
  report.set_wait_status(record.wait_status.value_or(0));
  report.set_reason(record.reason);
  return report;
}

}  // namespace fermata::node_agent
