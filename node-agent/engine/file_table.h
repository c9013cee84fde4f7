// The descriptor tables of a pod: which process has which open file description at which number.
// Descriptions are told apart by kcmp(2). Tracer's thread only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/held.h"
#include "node-agent/engine/obstacles.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

class FileTableRecorder {
 public:
  /// `init`: PID 1, whose descriptors 0, 1, 2 are the job's streams.
  FileTableRecorder(pid_t init, CaptureContext& context, image::PodObjects& objects)
      : init_(init), context_(context), objects_(objects), kinds_(make_file_kinds()) {}

  /// Records the descriptors of one process into `out`; each description is captured by its kind
  /// the first time it is met. What cannot be held goes to `obstacles`.
  Status record(const HeldProcess& process, image::Process& out, Obstacles& obstacles);
  /// After all processes.
  Status finish(Obstacles& obstacles);

  /// Id of what `vpid` has at `fd`; 0: nothing.
  uint32_t file_at(int vpid, int fd) const;

 private:
  struct Known {
    pid_t pid;
    int fd;
    dev_t device;
    ino_t inode;
    uint32_t id;
  };

  uint32_t find(pid_t pid, int fd, const struct stat& status) const;
  int stream_of(pid_t pid, int fd) const;
  Result<uint32_t> capture(FileProbe probe, uint32_t flags, Obstacles& obstacles);

  pid_t init_;
  CaptureContext& context_;
  image::PodObjects& objects_;
  std::vector<std::unique_ptr<FileKind>> kinds_;
  std::vector<Known> known_;
  std::map<std::pair<int, int>, uint32_t> table_;
};

/// Gives `process` its descriptors: `files` are ours by file id.
Status rebuild_file_table(RebuildRemote& remote, const image::Process& process,
                          const std::map<uint32_t, UniqueFd>& files);

}  // namespace fermata::engine
