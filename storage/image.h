// One pod of one set: what an image file holds, as plain values (docs/format.md is the
// specification).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/memory_image.h"
#include "common/status.h"
#include "proto/objects.pb.h"
#include "proto/placement.pb.h"

namespace fermata::storage {

/// The format this code writes. A reader of major N opens every N.x and refuses N+1.
inline constexpr uint16_t kFormatMajor = 1;
inline constexpr uint16_t kFormatMinor = 0;

/// Who made the image, where and when. Root attributes of the HDF5 file.
struct ImageHeader {
  uint16_t format_major = kFormatMajor;
  uint16_t format_minor = kFormatMinor;
  Crid crid;
  Crid parent;  ///< 0: a full image
  JobStep job;
  uint32_t pod = 0;  ///< number of the pod in the step
  std::string host;
  std::string kernel;        ///< uname -r
  std::string time;          ///< of the cut, ISO 8601 in UTC: "2026-11-20T21:00:00Z"
  std::string tool_version;  ///< version of Fermata
  std::string track;         ///< how writes were tracked: "uffd", "hash", ...; "none"
};

struct PodImage {
  ImageHeader header;
  image::PodObjects objects;
  image::Placement placement;
  std::string topology_xml;  ///< hwloc
  std::vector<MemoryRegion> memory;
};

/// Now, as ImageHeader::time has it.
std::string utc_now();

/// "pod-<k>.h5": the name of a pod's image in the folder of its set.
std::string image_file_name(uint32_t pod);
/// "pod-<k>.full.h5": the same where the image of an incremental set was made a full one later.
std::string flat_image_file_name(uint32_t pod);

}  // namespace fermata::storage
