// PodId as messages carry it. Pure functions.
#pragma once

#include "common/ids.h"
#include "proto/exchange.pb.h"

namespace fermata::wire {

inline PodId to_wire(const fermata::PodId& pod) {
  PodId out;
  out.set_job(pod.step.job);
  out.set_step(pod.step.step);
  out.set_pod(pod.pod);
  out.set_start(pod.start);
  return out;
}

inline fermata::PodId from_wire(const PodId& pod) {
  return {{pod.job(), pod.step()}, pod.pod(), pod.start()};
}

}  // namespace fermata::wire
