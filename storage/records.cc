#include "storage/records.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message_lite.h>

#include <limits>

namespace fermata::storage {
namespace {

using google::protobuf::MessageLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

void append_record(const MessageLite& message, std::vector<std::byte>& out) {
  const size_t size = message.ByteSizeLong();
  std::array<uint8_t, 10> prefix{};
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(size, prefix.data());
  const auto* begin = reinterpret_cast<const std::byte*>(prefix.data());
  out.insert(out.end(), begin, begin + (end - prefix.data()));
  const size_t at = out.size();
  out.resize(at + size);
  message.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(out.data() + at));
}

template <typename Records>
RecordSet record_set(std::string dataset, const Records& records) {
  RecordSet set{std::move(dataset), {}};
  for (const auto& record : records) append_record(record, set.bytes);
  return set;
}

RecordSet single_record(std::string dataset, const MessageLite& record) {
  RecordSet set{std::move(dataset), {}};
  append_record(record, set.bytes);
  return set;
}

// Calls `make` for each record and parses it into what that returns.
template <typename Make>
Status parse_records(const DatasetReader& read, const std::string& dataset, const Make& make) {
  FERMATA_ASSIGN_STATUS(const std::vector<std::byte> bytes, read(dataset));
  const auto* at = reinterpret_cast<const uint8_t*>(bytes.data());
  const uint8_t* const end = at + bytes.size();
  for (size_t number = 0; at < end; ++number) {
    // A varint of a length is at most 10 bytes; the stream never looks past them.
    const auto window = static_cast<int>(std::min<ptrdiff_t>(end - at, 10));
    CodedInputStream prefix(at, window);
    uint64_t size = 0;
    const bool sized = prefix.ReadVarint64(&size);
    if (sized) at += prefix.CurrentPosition();
    MessageLite* message = sized ? make(number) : nullptr;
    if (message == nullptr || size > static_cast<uint64_t>(end - at) ||
        size > static_cast<uint64_t>(std::numeric_limits<int>::max()) ||
        !message->ParseFromArray(at, static_cast<int>(size))) {
      return {Code::kDamaged, fmt::format("record {} of {} cannot be parsed", number, dataset)};
    }
    at += size;
  }
  return Status::ok();
}

Status parse_single(const DatasetReader& read, const std::string& dataset, MessageLite& message) {
  bool found = false;
  FERMATA_TRY(parse_records(read, dataset, [&](size_t number) {
    found = true;
    return number == 0 ? &message : nullptr;
  }));
  if (!found) return {Code::kDamaged, fmt::format("{} is empty", dataset)};
  return Status::ok();
}

template <typename Field>
Status parse_repeated(const DatasetReader& read, const std::string& dataset, Field* field) {
  return parse_records(read, dataset, [&](size_t) { return field->Add(); });
}

image::Header to_record(const ImageHeader& header) {
  image::Header record;
  record.set_crid(header.crid.value);
  record.set_parent(header.parent.value);
  record.set_job(header.job.job);
  record.set_step(header.job.step);
  record.set_pod(header.pod);
  record.set_host(header.host);
  record.set_kernel(header.kernel);
  record.set_time(header.time);
  record.set_tool_version(header.tool_version);
  record.set_track(header.track);
  return record;
}

}  // namespace

std::vector<RecordSet> encode_records(const PodImage& image) {
  const image::PodObjects& objects = image.objects;
  std::vector<RecordSet> sets;
  sets.push_back(single_record(kHeaderDataset, to_record(image.header)));
  sets.push_back(single_record("/objects/needs", objects.needs()));
  sets.push_back(single_record("/objects/pod", objects.pod()));
  sets.push_back(record_set("/objects/processes", objects.processes()));
  sets.push_back(record_set("/objects/files", objects.files()));
  sets.push_back(record_set("/objects/shared_objects", objects.shared_objects()));
  sets.push_back(record_set("/objects/shm_nodes", objects.shm_nodes()));
  sets.push_back(single_record(kPlacementDataset, image.placement));
  return sets;
}

Status decode_header(const DatasetReader& read, ImageHeader& header) {
  image::Header record;
  FERMATA_TRY(parse_single(read, kHeaderDataset, record));
  if (record.crid() == 0) return {Code::kDamaged, "its CRID is 0"};
  header.crid.value = record.crid();
  header.parent.value = record.parent();
  header.job = {record.job(), record.step()};
  header.pod = record.pod();
  header.host = record.host();
  header.kernel = record.kernel();
  header.time = record.time();
  header.tool_version = record.tool_version();
  header.track = record.track();
  return Status::ok();
}

Status decode_records(const DatasetReader& read, PodImage& image) {
  image::PodObjects& objects = image.objects;
  FERMATA_TRY(decode_header(read, image.header));
  FERMATA_TRY(parse_single(read, "/objects/needs", *objects.mutable_needs()));
  FERMATA_TRY(parse_single(read, "/objects/pod", *objects.mutable_pod()));
  FERMATA_TRY(parse_repeated(read, "/objects/processes", objects.mutable_processes()));
  FERMATA_TRY(parse_repeated(read, "/objects/files", objects.mutable_files()));
  FERMATA_TRY(parse_repeated(read, "/objects/shared_objects", objects.mutable_shared_objects()));
  FERMATA_TRY(parse_repeated(read, "/objects/shm_nodes", objects.mutable_shm_nodes()));
  return parse_single(read, kPlacementDataset, image.placement);
}

}  // namespace fermata::storage
