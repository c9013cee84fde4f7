// The interface behind which each kind of open file keeps its capture and its rebuild side by side:
// one file each (pipe.cc, eventfd.cc, tcp_socket.cc, ...). Called on the tracer's thread only.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/network_map.h"
#include "node-agent/engine/outside.h"
#include "node-agent/engine/remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// What is known from outside of one open file description, seen through one of its holders.
struct FileProbe {
  pid_t pid = 0;  ///< host PID of the holder
  int vpid = 0;   ///< its PID in the pod
  int fd = -1;    ///< its number there
  std::string
      link;  ///< /proc/PID/fd/N: "pipe:[17]", "/path", "/path (deleted)", "anon_inode:[eventpoll]"
  struct stat status {};
  std::string fdinfo;  ///< the whole of /proc/PID/fdinfo/N
  UniqueFd dup;        ///< ours: the same open file description

  /// "rank-like" words for a sentence: "process 12 (lmp), fd 7 (pipe:[17])".
  std::string describe() const;
};

/// What a kind may ask of the capture that runs.
class CaptureContext {
 public:
  CaptureContext() = default;
  CaptureContext(const CaptureContext&) = delete;
  CaptureContext& operator=(const CaptureContext&) = delete;
  virtual ~CaptureContext() = default;

  /// A stopped thread of the process (its leader), for calls only it can make. Avoid: see Remote.
  virtual Result<Remote*> remote(int vpid) = 0;
  /// PID in the pod of a host PID; 0 when it is not one of the pod's.
  virtual int vpid_of(pid_t host_pid) const = 0;
  /// Id of the open file description that process `vpid` has at `fd` (known once all were seen,
  /// that is from finish_capture on); 0 when it has none there.
  virtual uint32_t file_at(int vpid, int fd) const = 0;
  /// Records the object behind `probe` (a memfd or an unlinked file), contents included, once
  /// however often it is asked for (by device and inode). Returns its id.
  virtual Result<uint32_t> shared_object(const FileProbe& probe) = 0;
  /// Connections with other pods: whether they are captured, and those found.
  virtual OutsideConnections& outside() = 0;
};

/// What a kind may ask of the rebuild that runs.
class RebuildContext {
 public:
  RebuildContext() = default;
  RebuildContext(const RebuildContext&) = delete;
  RebuildContext& operator=(const RebuildContext&) = delete;
  virtual ~RebuildContext() = default;

  /// The process under construction: for calls that must be made by it. It has the job owner's
  /// file-system credentials and the pod's mounts, so every path in an image is opened through it.
  virtual Result<Remote*> remote(int vpid) = 0;
  /// Our descriptor of an open file description already created (valid until the rebuild ends); -1:
  /// not yet.
  virtual int created(uint32_t file_id) const = 0;
  /// Opens `path` in the pod, as the job's owner, by the process `vpid`, and takes the descriptor
  /// over.
  virtual Result<UniqueFd> open_in_pod(int vpid, const std::string& path, int flags,
                                       mode_t mode) = 0;
  /// Our read-write descriptor of a rebuilt shared object.
  virtual Result<int> object_fd(uint32_t object_id) = 0;
  /// What replaces stream 0, 1 or 2 of the job.
  virtual int stdio_fd(int stream) const = 0;
  /// Where sockets are, then and now.
  virtual NetworkMap& network() = 0;
};

/// One kind. An instance serves one capture or one rebuild and may keep what it needs to pair the
/// ends of an object.
class FileKind {
 public:
  FileKind() = default;
  FileKind(const FileKind&) = delete;
  FileKind& operator=(const FileKind&) = delete;
  virtual ~FileKind() = default;

  /// Whether an open file of this nature is this kind's. The first kind that says so gets it.
  virtual bool matches(const FileProbe& probe) const = 0;
  /// Fills out.<kind>. The caller has filled id, flags, position, owner, locks, creator. All
  /// threads of the pod are stopped. What cannot be rebuilt is refused with kCannotHold and a
  /// sentence: probe.describe(), what is in the way, what to do.
  virtual Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) = 0;
  /// Called once after all open files were captured: what needs every end (a pipe whose other end
  /// is outside the pod). `files` may be completed.
  virtual Status finish_capture(CaptureContext& context, image::PodObjects& objects);

  /// Called once before the first create(): `objects` outlives the kind. For kinds that pair the
  /// ends of an object.
  virtual Status start_rebuild(const image::PodObjects& objects, RebuildContext& context);

  /// Whether this kind rebuilds `file`.
  virtual bool owns(const image::File& file) const = 0;
  /// Makes the open file description and returns our descriptor of it (with file.flags() and
  /// position set). Called in ascending order of file id.
  virtual Result<UniqueFd> create(const image::File& file, RebuildContext& context) = 0;
  /// Called once after all files were created: addresses that others may know.
  virtual Status bind(RebuildContext& context);
  /// Called for each file after all were bound and stand at their numbers in every process: what
  /// refers to others (epoll, connected sockets, locks). Threads are not running yet.
  virtual Status connect(const image::File& file, RebuildContext& context);
  /// Called once after all were connected and the pods have told each other their addresses: what
  /// refers to other pods.
  virtual Status connect_outside(RebuildContext& context);
  /// Called once when all pods stand and packets flow, right before the threads run.
  virtual Status begin(RebuildContext& context);
};

/// New instances of every kind, in the order in which matches() is asked.
std::vector<std::unique_ptr<FileKind>> make_file_kinds();

}  // namespace fermata::engine
