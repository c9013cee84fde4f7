// The TCP port that the PMIx server of a pod listens on. It has to be free wherever the pod is
// restarted, so it is none of those that the kernel gives to anybody (ip_local_port_range, ip(7)):
// any process may have one of these by then. Any thread.
#pragma once

#include <cstdint>
#include <utility>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::pod {

/// Nobody else can choose the port while this holds it, and who sets SO_REUSEADDR can listen on it.
class HeldPort {
 public:
  /// Of 127.0.0.1, at random: jobs of several folders may have one number. kUnsupported: all are
  /// taken, or the kernel gives all to anybody.
  static Result<HeldPort> choose();

  uint16_t number() const { return number_; }

 private:
  HeldPort(UniqueFd socket, uint16_t number) : socket_(std::move(socket)), number_(number) {}

  UniqueFd socket_;
  uint16_t number_;
};

}  // namespace fermata::pod
