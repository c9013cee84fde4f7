// Groups that stand for pods, and processes that act as a pod's programs do. One thread.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fermata::isolation {

/// A cgroup v2 group of the test's own, removed with it.
class PodGroup {
 public:
  PodGroup();
  PodGroup(const PodGroup&) = delete;
  PodGroup& operator=(const PodGroup&) = delete;
  ~PodGroup() { remove(); }

  const std::filesystem::path& path() const { return path_; }
  /// Waits for it to be empty.
  void remove();
  /// Moves this process in. Sockets that it makes from now on are the pod's.
  void enter() const;
  /// Ids of all BPF programs on the group.
  std::vector<uint32_t> programs() const;

 private:
  std::filesystem::path path_;
};

/// Moves this process to the group that the test program started in.
void leave_pods();

/// Runs `body` in a process of its own in a network namespace of its own, with 127.0.0.1, ::1,
/// 10.77.0.1 to .4 and fd77::1 to ::4 as its addresses. Its failed expectations are the test's.
void in_network(const std::function<void()>& body);

/// A command that has to succeed.
void run(const std::string& command);

/// Waits for a process; its wait status.
int wait_status(pid_t pid);

/// Factor for deadlines on slow machines.
double slowdown();

double seconds_since(std::chrono::steady_clock::time_point start);

}  // namespace fermata::isolation
