// Bytes that several processes share or that no name reaches: shared anonymous memory, memfds,
// deleted files, files of the pod's /dev/shm. Recorded once each, by device and inode. Tracer's
// thread only.
#pragma once

#include <sys/stat.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/memory_image.h"
#include "common/unique_fd.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Those found by a capture. `objects` and `memory` outlive it and receive what it records.
class SharedObjectRecorder {
 public:
  SharedObjectRecorder(image::PodObjects& objects, std::vector<MemoryRegion>& memory)
      : objects_(objects), memory_(memory) {}

  /// The object open at `file` (ours). `name` is what the kernel calls it: "/memfd:x (deleted)",
  /// "/dev/zero (deleted)", "/path (deleted)". Returns its id.
  Result<uint32_t> record(UniqueFd file, const std::string& name, image::SharedObject::Kind kind);

  /// The first process (by its PID in the pod) of those that this was asked for of an inode of
  /// memory of huge pages: those that have the same got it by fork.
  int first_with(uint64_t inode, int vpid) { return huge_.try_emplace(inode, vpid).first->second; }

  /// Kind by the kernel's name of an unnamed object; DELETED has had one.
  static image::SharedObject::Kind kind_of(const std::string& name);

 private:
  image::PodObjects& objects_;
  std::vector<MemoryRegion>& memory_;
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> known_;
  std::map<uint64_t, int> huge_;
};

/// Those rebuilt: our read-write descriptor of each, until the rebuild ends.
class SharedObjectStore {
 public:
  /// Makes every object but SHM_FILE ones (their tree makes them) by calls of `init`, which has the
  /// owner's rights and the pod's mounts, and fills them.
  Status rebuild(RebuildRemote& init, const image::PodObjects& objects,
                 const std::vector<MemoryRegion>& memory);

  Result<int> fd(uint32_t id) const;

 private:
  Result<UniqueFd> make(RebuildRemote& init, const image::SharedObject& object);

  std::map<uint32_t, UniqueFd> files_;
};

/// The region of an object among `memory`; null when it has none.
const MemoryRegion* find_region(const std::vector<MemoryRegion>& memory, MemoryId id);

/// Writes a region's bytes into a file.
Status fill_file(int fd, const MemoryRegion& region);

/// Bytes of a page of an open file or map of huge pages (hugetlbfs); 0: it is of no such.
uint64_t huge_page_size(int fd);

}  // namespace fermata::engine
