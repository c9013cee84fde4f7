// Two nodes of one test: network namespaces joined by a cable (veth), and cgroup v2 groups for the
// pods on them, with the programs that isolate a pod.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/inet_address.h"
#include "node-agent/isolation/isolation.h"

namespace fermata::engine {

/// A group with isolation, removed at the end.
class GroupDouble {
 public:
  GroupDouble();
  ~GroupDouble();
  GroupDouble(const GroupDouble&) = delete;
  GroupDouble& operator=(const GroupDouble&) = delete;

  const std::filesystem::path& path() const { return path_; }
  isolation::Isolation& isolation() { return *isolation_; }

 private:
  std::filesystem::path path_;
  std::unique_ptr<isolation::Isolation> isolation_;
};

/// A network namespace with loopback up.
class NodeDouble {
 public:
  NodeDouble();

  /// The calling thread goes there, and what it forks.
  void enter() const;
  /// Runs a shell command there; false when it fails.
  bool run(const std::string& command) const;
  /// Back to where the test began.
  static void leave();

  /// A cable between the two: one has 10.<net / 250>.<net % 250>.1 and
  /// fd00:<net>::1, the other those with 2.
  static void join(const NodeDouble& one, const NodeDouble& other, int net);

 private:
  UniqueFd netns_;
};

}  // namespace fermata::engine
