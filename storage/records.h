// Between image::PodObjects and the datasets of /objects: each holds records of one protobuf type,
// each record preceded by its length as a varint. Any thread.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/header.pb.h"
#include "storage/image.h"

namespace fermata::storage {

struct RecordSet {
  std::string dataset;  ///< "/objects/files"
  std::vector<std::byte> bytes;
};

inline constexpr const char* kHeaderDataset = "/objects/header";
inline constexpr const char* kPlacementDataset = "/placement";
inline constexpr const char* kTopologyDataset = "/topology";

/// The datasets of an image that hold records, the header and the placement among them.
std::vector<RecordSet> encode_records(const PodImage& image);

/// Bytes of a dataset by its name, already verified.
using DatasetReader = std::function<Result<std::vector<std::byte>>(const std::string& dataset)>;

/// Fills header but for its format, objects and placement. kDamaged names the dataset that cannot
/// be parsed.
Status decode_records(const DatasetReader& read, PodImage& image);
Status decode_header(const DatasetReader& read, ImageHeader& header);

}  // namespace fermata::storage
