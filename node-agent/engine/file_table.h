// The descriptor tables of a pod: which process has which open file description at which number.
// Descriptions are told apart by kcmp(2). Tracer's thread only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "node-agent/engine/capture.h"
#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/held.h"
#include "node-agent/engine/obstacles.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

class FileTableRecorder {
 public:
  /// `init`: PID 1, whose descriptors 0, 1, 2 are the job's streams, and from kFirstRankStream on
  /// `rank_streams` those of single ranks.
  FileTableRecorder(pid_t init, int rank_streams, CaptureContext& context,
                    image::PodObjects& objects);

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

  /// A stream of the job, as PID 1 has it.
  struct Stream {
    int number;
    int fd;
    dev_t device;
    ino_t inode;
  };

  uint32_t find(pid_t pid, int fd, const struct stat& status) const;
  int stream_of(pid_t pid, int fd, const struct stat& status) const;
  Result<uint32_t> capture(FileProbe probe, uint32_t flags, Obstacles& obstacles);

  pid_t init_;
  CaptureContext& context_;
  image::PodObjects& objects_;
  std::vector<std::unique_ptr<FileKind>> kinds_;
  std::vector<Stream> streams_;
  std::vector<Known> known_;
  std::map<std::pair<int, int>, uint32_t> table_;
};

/// Gives `process` its descriptors: `files` are ours by file id.
Status rebuild_file_table(RebuildRemote& remote, const image::Process& process,
                          const std::map<uint32_t, UniqueFd>& files);

}  // namespace fermata::engine
