#include "coord/wire.h"

namespace fermata::coord {

wire::PodId to_wire(const PodId& pod) {
  wire::PodId out;
  out.set_job(pod.step.job);
  out.set_step(pod.step.step);
  out.set_pod(pod.pod);
  out.set_start(pod.start);
  return out;
}

PodId from_wire(const wire::PodId& pod) {
  return {{pod.job(), pod.step()}, pod.pod(), pod.start()};
}

}  // namespace fermata::coord
