// Chains: an incremental image and those it builds on, back to a full one. The image of the parent
// set is that of the same pod, found by the parent's manifest in the folder beside: only committed
// sets are parents. All of it is untrusted: CRIDs fall from image to image, a chain has an end, and
// a digest stands for each. Functions act as the calling thread (FsCredentialScope).
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "storage/image.h"
#include "storage/manifest.h"

namespace fermata::storage {

/// No chain is longer: what a reader has to hold open.
inline constexpr size_t kLongestChain = 256;

struct ChainImage {
  Crid crid;
  std::filesystem::path path;
  std::string digest;  ///< of the manifest; empty: not known
};

/// The images that a restart from `image` reads, which comes first. kDamaged, naming both sets: a
/// parent is missing, not committed, or not of this job.
Result<std::vector<ChainImage>> chain_of(const std::filesystem::path& image,
                                         std::string_view digest);

/// The image with the memory it has by its parents: no extent of the result is kParent, and its
/// sources read each page from the newest image that has it, verified. Failures are those of
/// read_image() and chain_of().
Result<PodImage> read_chain(const std::filesystem::path& image, std::string_view digest = {});

/// The sets that the set of `manifest`, whose folder is `folder`, builds on, the nearest first.
Result<std::vector<Manifest>> ancestors_of(const std::filesystem::path& folder,
                                           const Manifest& manifest);

}  // namespace fermata::storage
