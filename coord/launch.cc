#include "coord/launch.h"

#include <fmt/format.h>

#include "common/log.h"
#include "coord/job.h"
#include "coord/orders.h"
#include "coord/wire.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

constexpr std::chrono::seconds kDestroy{30};

}  // namespace

wire::StepShape shape_of(const stored::Job& record) {
  wire::StepShape shape;
  shape.set_ranks(static_cast<uint32_t>(record.pod_of_rank_size()));
  *shape.mutable_pod_of_rank() = record.pod_of_rank();
  for (const stored::Pod& pod : record.pods()) shape.add_hosts(pod.known_as());
  return shape;
}

wire::Streams streams_of(const stored::Job& record) {
  wire::Streams streams;
  streams.set_output(record.output());
  streams.set_error(record.error());
  return streams;
}

Status launch(Fleet& fleet, const stored::Job& record, const wire::RunRequest& request,
              Duration timeout, const std::stop_token& give_up) {
  wire::LaunchOrder what;
  what.set_owner_uid(record.owner_uid());
  *what.mutable_shape() = shape_of(record);
  *what.mutable_command() = request.command();
  *what.mutable_environment() = request.environment();
  what.set_working_directory(request.working_directory());
  *what.mutable_streams() = streams_of(record);
  what.set_checkpoint_dir(record.checkpoint_dir());
  what.set_stubs(record.slurm());

  std::vector<Errand> errands;
  for (int i = 0; i < record.pods_size(); ++i) {
    Errand errand{record.pods(i).node(), {}};
    *errand.order.mutable_pod() = to_wire(pod_of(record, static_cast<uint32_t>(i)));
    *errand.order.mutable_launch() = what;
    errands.push_back(std::move(errand));
  }
  const Errands answers =
      run_errands(fleet, std::move(errands), timeout, Until::kFirstFailure, give_up);
  return answers.first_failure;
}

void destroy(Fleet& fleet, const stored::Job& record) {
  std::vector<Errand> errands;
  for (int i = 0; i < record.pods_size(); ++i) {
    if (!fleet.attached(record.pods(i).node())) continue;
    Errand errand{record.pods(i).node(), {}};
    *errand.order.mutable_pod() = to_wire(pod_of(record, static_cast<uint32_t>(i)));
    errand.order.mutable_destroy();
    errands.push_back(std::move(errand));
  }
  const Errands ended = run_errands(fleet, std::move(errands), kDestroy, Until::kAllAnswered, {});
  if (!ended.all_done()) {
    log_error(fmt::format("job {}: a pod may be left: {}; it is ended when its agent comes back",
                          to_string(step_of(record)),
                          storage::printable(ended.first_failure.message())));
  }
}

void destroy_untended(Fleet& fleet, const std::string& node, const PodId& pod) {
  wire::Order order;
  *order.mutable_pod() = to_wire(pod);
  order.set_timeout_ns(static_cast<uint64_t>(std::chrono::nanoseconds(kDestroy).count()));
  order.mutable_destroy();
  fleet.send(node, std::move(order), [](const Result<wire::Done>&) {});
}

}  // namespace fermata::coord
