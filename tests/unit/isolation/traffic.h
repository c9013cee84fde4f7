// What a pod's traffic feels of its isolation, for tests and bench/. Failures are the test's.
#pragma once

#include <chrono>
#include <cstddef>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"

namespace fermata::isolation {

/// A pod that sends to another; both may be cut.
struct Traffic {
  PodGroup sender_group;
  PodGroup receiver_group;
  Isolation sender;
  Isolation receiver;

  Traffic();
};

/// Data is on its way while the two pods are cut, one after the other; both stay so for `cut` and
/// are joined. The time from then to the first byte that arrives. `nudged`: as an agent does.
std::chrono::duration<double> time_to_first_byte(Traffic& traffic, std::chrono::milliseconds cut,
                                                 bool nudged);

/// Seconds that a connection within the group (or outside of any pod, where null) takes for that
/// many bytes.
std::chrono::duration<double> time_of_stream(const PodGroup* group, size_t bytes);

}  // namespace fermata::isolation
