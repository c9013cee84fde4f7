// A pod of one test: a program forked from it, stopped and looked at as the engine does, killed,
// and its open files built again in bare processes. No namespaces: PIDs in the "pod" are small
// numbers given here.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/injection.h"
#include "node-agent/engine/rebuild_remote.h"

namespace fermata::engine {

class PodDouble {
 public:
  /// Forks a process that closes every descriptor but 0-2, runs `program` and waits. What it forks
  /// (and waits in pause()) is part of the pod. `group`: a cgroup v2 directory for it and for what
  /// is rebuilt; empty: that of the test.
  explicit PodDouble(const std::function<void()>& program, std::filesystem::path group = {});
  ~PodDouble();
  PodDouble(const PodDouble&) = delete;
  PodDouble& operator=(const PodDouble&) = delete;

  /// Stops all processes and captures their files from descriptor 3 on. A rebuilt pod, too.
  Status capture();
  /// Stops them without capturing anything; resume() lets them run on.
  Status stop();
  Remote& stopped_process(int vpid);
  Remote& rebuilt_process(int vpid);
  void resume();
  void kill();
  /// The group of what is rebuilt.
  void move_to(std::filesystem::path group) { group_ = std::move(group); }
  /// Kills what is left, then builds the captured files, but for begin().
  Status build();
  Status begin();
  /// Both.
  Status rebuild();
  /// capture, kill and rebuild.
  Status cut_and_rebuild();

  /// Our descriptor of what process `vpid` has at `fd` (of the rebuilt pod once there is one).
  UniqueFd fd(int vpid, int fd);
  image::PodObjects& objects() { return objects_; }
  /// Of the capture; `allowed` and `group` are for the test to set.
  OutsideConnections& outside() { return outside_; }
  /// Of the rebuild.
  void set_network(NetworkRequest request) { network_request_ = std::move(request); }
  const std::vector<pid_t>& pids() const { return pids_; }

 private:
  friend class CaptureDouble;
  friend class RebuildDouble;
  struct Stopped {
    std::shared_ptr<InjectionSite> site;
    std::unique_ptr<CaptureRemote> remote;
  };

  Status capture_files();
  Remote& remote_of(int vpid);
  /// In a child just forked.
  void join_group() const;

  std::filesystem::path group_;
  std::vector<pid_t> pids_;  // index + 1 is the PID in the pod
  std::vector<Stopped> stopped_;
  image::PodObjects objects_;
  std::map<uint32_t, std::string> shared_;  // contents of shared objects, by id
  std::map<uint32_t, UniqueFd> object_fds_;
  std::vector<std::unique_ptr<RebuildRemote>> rebuilt_;
  OutsideConnections outside_;
  NetworkRequest network_request_;
  std::unique_ptr<NetworkMap> network_;
  std::vector<std::unique_ptr<FileKind>> kinds_;
  std::map<uint32_t, UniqueFd> made_;
};

}  // namespace fermata::engine
