// Address maps of the tests. Plain functions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"

namespace fermata::isolation {

struct Entry {
  int protocol;  ///< 0: any
  Address from;
  Address to;
};

void add(image::AddressMap& map, const Entry& entry);
void set(Isolation& isolation, const std::vector<Entry>& entries);

/// An entry a line: "tcp 10.99.0.1:7000 -> 10.77.0.1:7001".
std::string described(const image::AddressMap& map);

/// in_network() with a pod.
void in_pod(const std::function<void(Isolation&, const PodGroup&)>& body);

}  // namespace fermata::isolation
