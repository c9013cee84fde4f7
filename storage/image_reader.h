// Reads images. A file is untrusted: every offset, length, count and checksum is checked before it
// is used, and libhdf5 never parses it (docs/format.md, "The index"). Functions open the file as
// the calling thread (FsCredentialScope); what they return may be used from any thread.
//
// Failures: kNotFound, kPermission, kStorage (the file cannot be read), kDamaged (it is not what
// was written), kUnsupported (a newer format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "storage/image.h"

namespace fermata::storage {

/// Reads all but the pages, of this image alone: of an incremental one some extents are kParent
/// (chain.h reads those, too). The regions' sources keep the file open and verify each block they
/// read (kDamaged from read()); they may outlive everything else. `expected_digest`: of the
/// manifest; empty: not compared.
Result<PodImage> read_image(const std::filesystem::path& path,
                            std::string_view expected_digest = {});

/// As read_image, without memory, topology and placement: who made it. Also of an image of a newer
/// minor.
Result<ImageHeader> read_image_header(const std::filesystem::path& path);

/// Called now and then with bytes read so far and all to read.
using VerifyProgress = std::function<void(uint64_t done, uint64_t total)>;

struct VerifiedImage {
  ImageHeader header;
  std::string digest;
  uint64_t bytes = 0;
  uint64_t memory_bytes = 0;
};

/// Reads every byte of the file and compares it with the checksums in it, and the whole with
/// `expected_digest` (where not empty).
Result<VerifiedImage> verify_image(const std::filesystem::path& path,
                                   std::string_view expected_digest = {},
                                   const VerifyProgress& progress = nullptr);

}  // namespace fermata::storage
