// The manifest of a set, set.json: once it is durable the set is committed. Plain values; functions
// act as the calling thread (FsCredentialScope). Read as untrusted input: every field is checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "storage/set_files.h"

namespace fermata::storage {

struct ManifestImage {
  uint32_t pod = 0;
  std::string host;  ///< the node it was taken on
  std::string file;  ///< a plain name in the set's folder: "pod-0.h5"
  uint64_t bytes = 0;
  uint64_t memory_bytes = 0;
  std::string digest;         ///< WrittenImage::digest
  std::string known_as = {};  ///< the host's name for the pod's processes; empty: as `host`
  double stand_still_ms = 0;
  /// What each of Manifest::phases_ms took on this node. Empty: not recorded.
  std::vector<double> phases_ms = {};
  /// How memory was kept: "twin", "copy", "bounded", "stopped"; empty: not told.
  std::string snapshot = {};
  std::string track = {};  ///< ImageHeader::track
  double held_ms = 0;      ///< it stood still later, for want of memory, while it was written
};

struct Manifest {
  Crid crid;
  Crid parent;  ///< the set that images of this one build on; 0: a full set
  /// The sets that this one builds on, and the bytes of their images.
  uint32_t chain_sets = 0;
  uint64_t chain_bytes = 0;
  JobStep job;
  uint32_t ranks = 0;
  std::vector<uint32_t> pod_of_rank;  ///< by rank; empty: all in one pod
  std::string external_tcp;           ///< "refuse" or "reset": connections that leave the job
  std::vector<std::string> command;
  std::string user;  ///< owner of the job
  std::string time;  ///< of the cut, ISO 8601 in UTC
  std::string tool_version;
  std::vector<ManifestImage> images;
  /// Name and milliseconds of each phase, in order.
  std::vector<std::pair<std::string, double>> phases_ms;
  /// From the request until the first phase began, earlier attempts included; 0: not recorded.
  double request_ms = 0;
  double stand_still_ms = 0;
  double held_ms = 0;  ///< of the image where it was longest
  std::string result;  ///< "resumed" or "killed": what became of the job after the cut

  uint64_t bytes() const;
};

/// Temporary, fsync, rename, fsync of the folder: commits the set.
Status write_manifest(const std::filesystem::path& set_dir, const Manifest& manifest);
/// kNotFound: no manifest, the set was never committed. kDamaged, kUnsupported: see the sentence.
/// The CRID and the job in it are compared with the names of the folders it lies in.
Result<Manifest> read_manifest(const std::filesystem::path& set_dir);
/// The manifest as it stands in the file, for `fermata show --json`.
std::string manifest_json(const Manifest& manifest);

}  // namespace fermata::storage
