#include "storage/manifest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "common/fault_point.h"
#include "common/file_util.h"
#include "common/unique_fd.h"
#include "storage/checksum.h"
#include "storage/format.h"
#include "storage/image.h"

namespace fermata::storage {
namespace {

using Json = nlohmann::json;

constexpr const char* kKind = "fermata-set";
constexpr uint32_t kMajor = 1;
constexpr uint32_t kMinor = 2;
constexpr size_t kMaxManifestSize = 16 << 20;

// Names of a command line need not be UTF-8; JSON must.
std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string checksum_of(const Json& set) {
  const std::string text = dump(set, -1);
  return fmt::format("{:016x}", checksum64(std::as_bytes(std::span(text))));
}

Json to_json(const Manifest& manifest) {
  Json images = Json::array();
  for (const ManifestImage& image : manifest.images) {
    images.push_back({{"pod", image.pod},
                      {"host", image.host},
                      {"known_as", image.known_as},
                      {"file", image.file},
                      {"bytes", image.bytes},
                      {"memory_bytes", image.memory_bytes},
                      {"digest", image.digest},
                      {"stand_still_ms", image.stand_still_ms},
                      {"held_ms", image.held_ms},
                      {"phases_ms", image.phases_ms},
                      {"snapshot", image.snapshot},
                      {"track", image.track}});
  }
  Json phases = Json::array();
  for (const auto& [name, ms] : manifest.phases_ms) {
    phases.push_back({{"name", name}, {"ms", ms}});
  }
  Json set{{"crid", manifest.crid.value},
           {"parent", manifest.parent.value},
           {"chain_sets", manifest.chain_sets},
           {"chain_bytes", manifest.chain_bytes},
           {"job", manifest.job.job},
           {"step", manifest.job.step},
           {"ranks", manifest.ranks},
           {"pod_of_rank", manifest.pod_of_rank},
           {"external_tcp", manifest.external_tcp},
           {"command", manifest.command},
           {"user", manifest.user},
           {"time", manifest.time},
           {"tool_version", manifest.tool_version},
           {"images", std::move(images)},
           {"phases", std::move(phases)},
           {"request_ms", manifest.request_ms},
           {"stand_still_ms", manifest.stand_still_ms},
           {"held_ms", manifest.held_ms},
           {"result", manifest.result}};
  // As it will be read: the checksum is of the text, and text that is not UTF-8 changes on its way
  // to it.
  set = Json::parse(dump(set, -1));
  std::string checksum = checksum_of(set);
  return {{"kind", kKind},
          {"format", fmt::format("{}.{}", kMajor, kMinor)},
          {"set", std::move(set)},
          {"checksum", std::move(checksum)}};
}

// Takes values out of a JSON object; remembers the first that is missing or wrong.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {
    if (!object.is_object()) wrong_ = "not an object";
  }

  template <typename T>
  requires std::is_unsigned_v<T>
  void get(const char* key, T& out) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_number_unsigned() || value->get<uint64_t>() > std::numeric_limits<T>::max()) {
      return note(key);
    }
    out = value->get<T>();
  }
  void get(const char* key, double& out) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() < 0) {
      return note(key);
    }
    out = value->get<double>();
  }
  void get(const char* key, std::string& out) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return note(key);
    out = value->get<std::string>();
  }
  const Json& array(const char* key) {
    static const Json empty = Json::array();
    const Json* value = find(key);
    if (value == nullptr) return empty;
    if (!value->is_array()) {
      note(key);
      return empty;
    }
    return *value;
  }
  /// The same of fields that older versions did not write.
  template <typename T>
  void get_optional(const char* key, T& out) {
    if (object_.is_object() && object_.contains(key)) get(key, out);
  }
  template <typename T>
  void get(const char* key, std::vector<T>& out) {
    for (const Json& value : array(key)) {
      const bool right = std::is_unsigned_v<T>
                             ? value.is_number_unsigned() &&
                                   value.get<uint64_t>() <= std::numeric_limits<uint32_t>::max()
                             : value.is_number();
      if (!right) return note(key);
      out.push_back(value.get<T>());
    }
  }
  void note(const std::string& key) {
    if (wrong_.empty()) wrong_ = "\"" + key + "\" is missing or wrong";
  }
  void take(const Fields& inner) {
    if (wrong_.empty()) wrong_ = inner.wrong_;
  }
  const std::string& wrong() const { return wrong_; }

 private:
  const Json* find(const char* key) {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    note(key);
    return nullptr;
  }

  const Json& object_;
  std::string wrong_;
};

bool is_utc_time(std::string_view text) {
  constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
  if (text.size() != kForm.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == '0' ? !digit : text[i] != kForm[i]) return false;
  }
  return true;
}

bool is_digest(std::string_view text) {
  return text.size() == 2 * sizeof(Digest) &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

ManifestImage image_from(const Json& json, Fields& fields) {
  Fields inner(json);
  ManifestImage image;
  inner.get("pod", image.pod);
  inner.get("host", image.host);
  inner.get("file", image.file);
  inner.get("bytes", image.bytes);
  inner.get("memory_bytes", image.memory_bytes);
  inner.get("digest", image.digest);
  inner.get_optional("known_as", image.known_as);
  inner.get_optional("stand_still_ms", image.stand_still_ms);
  inner.get_optional("held_ms", image.held_ms);
  inner.get_optional("phases_ms", image.phases_ms);
  inner.get_optional("snapshot", image.snapshot);
  inner.get_optional("track", image.track);
  // The name is not free: no path out of the folder can be in it.
  if (image.file != image_file_name(image.pod) && image.file != flat_image_file_name(image.pod)) {
    inner.note("file");
  }
  if (!is_digest(image.digest)) inner.note("digest");
  fields.take(inner);
  return image;
}

Manifest manifest_from(Fields& fields) {
  Manifest manifest;
  fields.get("crid", manifest.crid.value);
  fields.get("parent", manifest.parent.value);
  fields.get_optional("chain_sets", manifest.chain_sets);
  fields.get_optional("chain_bytes", manifest.chain_bytes);
  fields.get("job", manifest.job.job);
  fields.get("step", manifest.job.step);
  fields.get("ranks", manifest.ranks);
  fields.get_optional("pod_of_rank", manifest.pod_of_rank);
  fields.get_optional("external_tcp", manifest.external_tcp);
  for (const Json& word : fields.array("command")) {
    if (!word.is_string()) {
      fields.note("command");
      break;
    }
    manifest.command.push_back(word.get<std::string>());
  }
  fields.get("user", manifest.user);
  fields.get("time", manifest.time);
  fields.get("tool_version", manifest.tool_version);
  std::set<uint32_t> pods;
  for (const Json& image : fields.array("images")) {
    manifest.images.push_back(image_from(image, fields));
    if (!pods.insert(manifest.images.back().pod).second) fields.note("images");
  }
  for (const Json& phase : fields.array("phases")) {
    Fields inner(phase);
    auto& [name, ms] = manifest.phases_ms.emplace_back();
    inner.get("name", name);
    inner.get("ms", ms);
    fields.take(inner);
  }
  fields.get_optional("request_ms", manifest.request_ms);
  fields.get("stand_still_ms", manifest.stand_still_ms);
  fields.get_optional("held_ms", manifest.held_ms);
  fields.get("result", manifest.result);
  if (manifest.crid.value == 0 || manifest.parent >= manifest.crid) fields.note("crid");
  if (manifest.images.empty()) fields.note("images");
  const auto no_pod = [&](uint32_t pod) { return pods.count(pod) == 0; };
  if (!manifest.pod_of_rank.empty() &&
      (manifest.pod_of_rank.size() != manifest.ranks ||
       std::any_of(manifest.pod_of_rank.begin(), manifest.pod_of_rank.end(), no_pod))) {
    fields.note("pod_of_rank");
  }
  for (const ManifestImage& image : manifest.images) {
    if (!image.phases_ms.empty() && image.phases_ms.size() != manifest.phases_ms.size()) {
      fields.note("phases_ms");
    }
  }
  if (!is_utc_time(manifest.time)) fields.note("time");
  return manifest;
}

Failure damaged(const std::filesystem::path& file, std::string_view what) {
  return failure(Code::kDamaged,
                 fmt::format("manifest {}: {}; the set cannot be used", file.native(), what));
}

Result<std::string> read_limited(const std::filesystem::path& path) {
  // O_NONBLOCK: a FIFO put in its place must not hang us.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
    return errno_failure(errno, "cannot read " + path.native());
  }
  if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) > kMaxManifestSize) {
    return damaged(path, "not a regular file of at most 16 MiB");
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  FERMATA_TRY_RESULT(
      read_exactly(fd.get(), 0, std::as_writable_bytes(std::span(text)), path.native()));
  return text;
}

Status check_format(const Json& json, const std::filesystem::path& file) {
  Fields fields(json);
  std::string kind;
  std::string format;
  fields.get("kind", kind);
  fields.get("format", format);
  if (!fields.wrong().empty()) return damaged(file, fields.wrong()).value();
  unsigned major = 0;
  unsigned minor = 0;
  if (kind != kKind || std::sscanf(format.c_str(), "%9u.%9u", &major, &minor) != 2 || major == 0) {
    return damaged(file, "not a manifest of Fermata").value();
  }
  if (major > kMajor) {
    return {Code::kUnsupported,
            fmt::format("manifest {} has format {}, this fermata reads up to {}.x: use the version "
                        "that wrote it, or a newer one",
                        file.native(), format, kMajor)};
  }
  return Status::ok();
}

}  // namespace

uint64_t Manifest::bytes() const {
  uint64_t sum = 0;
  for (const ManifestImage& image : images) sum += image.bytes;
  return sum;
}

std::string manifest_json(const Manifest& manifest) { return dump(to_json(manifest), 2) + "\n"; }

Status write_manifest(const std::filesystem::path& set_dir, const Manifest& manifest) {
  // The folder itself: nothing in it counts before this file does, and a request waits while it is
  // made.
  FERMATA_TRY(fsync_dir(set_dir.parent_path()));
  FAULT_POINT("commit.manifest");
  return write_file_durable(set_dir / kManifestFile, manifest_json(manifest), 0600);
}

Result<Manifest> read_manifest(const std::filesystem::path& set_dir) {
  const std::filesystem::path file = set_dir / kManifestFile;
  FERMATA_ASSIGN(const std::string text, read_limited(file));
  // Deeper levels than a manifest has are dropped: dump() recurses.
  const auto shallow = [](int depth, Json::parse_event_t, Json&) { return depth < 8; };
  const Json json = Json::parse(text, shallow, /*allow_exceptions=*/false);
  if (json.is_discarded()) return damaged(file, "not JSON");
  FERMATA_TRY_RESULT(check_format(json, file));
  const auto set = json.find("set");
  const auto checksum = json.find("checksum");
  if (set == json.end() || checksum == json.end() || !checksum->is_string() ||
      checksum->get<std::string>() != checksum_of(*set)) {
    return damaged(file, "does not match its checksum");
  }
  Fields fields(*set);
  Manifest manifest = manifest_from(fields);
  if (!fields.wrong().empty()) return damaged(file, fields.wrong());
  std::error_code error;
  const auto folder = std::filesystem::absolute(file, error).lexically_normal().parent_path();
  if (folder.filename() != to_string(manifest.crid) ||
      folder.parent_path().filename() != to_string(manifest.job)) {
    return damaged(file, fmt::format("is of set {} of job {}, not of this folder",
                                     manifest.crid.value, to_string(manifest.job)));
  }
  return manifest;
}

}  // namespace fermata::storage
