#include "node-agent/pod_registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>

#include "common/file_util.h"
#include "common/log.h"
#include "node-agent/record_file.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kRecord = "json";
constexpr std::string_view kPlan = "placement";
constexpr std::string_view kEnds = "ends";
constexpr std::string_view kTerms = "terms";
constexpr std::string_view kMemory = "memory";
constexpr std::array kBeside{kPlan, kEnds, kTerms, kMemory};  // a record

std::span<const unsigned char> bytes_of(const std::string& text) {
  return {reinterpret_cast<const unsigned char*>(text.data()), text.size()};
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    unsigned value = 0;
    std::from_chars(text.data() + i, text.data() + i + 2, value, 16);
    bytes.push_back(static_cast<char>(value));
  }
  return bytes;
}

std::string text_of(const PodRecord& record) {
  json out = {{"job", record.id.step.job},
              {"step", record.id.step.step},
              {"pod", record.id.pod},
              {"start", record.id.start},
              {"init", record.init},
              {"init_start", record.init_start},
              {"group", record.group.string()},
              {"owner", record.owner.name},
              {"uid", record.owner.uid},
              {"gid", record.owner.gid},
              {"groups", record.owner.groups},
              {"home", record.owner.home},
              {"pod_of_rank", record.pod_of_rank},
              {"command", record.command},
              {"folder", record.folder.string()},
              {"stubs", record.stubs},
              {"rank_streams", record.rank_streams},
              {"started", record.started},
              {"ended", record.ended},
              {"reason", record.reason}};
  for (const std::string& address : record.known_addresses) {
    out["known_addresses"].push_back(fmt::format("{:02x}", fmt::join(bytes_of(address), "")));
  }
  for (const StubProcess& stub : record.stub_processes) {
    out["stub_processes"].push_back({stub.rank, stub.pid, stub.start});
  }
  if (record.wait_status) out["wait_status"] = *record.wait_status;
  // An argument may hold any bytes; what is not UTF-8 is replaced.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::optional<PodRecord> record_of(const fs::path& file) {
  const std::optional<std::string> text = trusted_record(file);
  if (!text) return std::nullopt;
  try {
    const json object = json::parse(*text);
    PodRecord record;
    record.id.step.job = object.at("job").get<uint64_t>();
    record.id.step.step = object.at("step").get<uint32_t>();
    record.id.pod = object.at("pod").get<uint32_t>();
    record.id.start = object.at("start").get<uint32_t>();
    record.init = object.at("init").get<pid_t>();
    record.init_start = object.at("init_start").get<uint64_t>();
    record.group = object.at("group").get<std::string>();
    record.owner.name = object.at("owner").get<std::string>();
    record.owner.uid = object.at("uid").get<uid_t>();
    record.owner.gid = object.at("gid").get<gid_t>();
    record.owner.groups = object.at("groups").get<std::vector<gid_t>>();
    record.owner.home = object.at("home").get<std::string>();
    record.pod_of_rank = object.at("pod_of_rank").get<std::vector<uint32_t>>();
    record.command = object.at("command").get<std::vector<std::string>>();
    record.folder = object.at("folder").get<std::string>();
    record.stubs = object.value("stubs", false);
    record.rank_streams = object.value("rank_streams", 0);
    record.started = object.at("started").get<int64_t>();
    record.ended = object.at("ended").get<bool>();
    record.reason = object.at("reason").get<std::string>();
    for (const json& address : object.value("known_addresses", json::array())) {
      record.known_addresses.push_back(from_hex(address.get<std::string>()));
    }
    for (const json& stub : object.value("stub_processes", json::array())) {
      record.stub_processes.push_back(
          {stub.at(0).get<uint32_t>(), stub.at(1).get<pid_t>(), stub.at(2).get<uint64_t>()});
    }
    if (object.contains("wait_status")) record.wait_status = object["wait_status"].get<int>();
    return record;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

}  // namespace

bool StubProcess::lives() const { return pid > 0 && process_start_time(pid) == start; }

bool PodRecord::alive() const {
  return !ended && init > 0 && process_start_time(init) == init_start;
}

bool PodRecord::has_peers() const {
  return std::any_of(pod_of_rank.begin(), pod_of_rank.end(),
                     [&](uint32_t pod) { return pod != id.pod; });
}

std::vector<uint32_t> PodRecord::ranks_here() const {
  std::vector<uint32_t> ranks;
  for (uint32_t rank = 0; rank < pod_of_rank.size(); ++rank) {
    if (pod_of_rank[rank] == id.pod) ranks.push_back(rank);
  }
  return ranks;
}

fs::path PodRegistry::file_of(const PodId& id, std::string_view kind) const {
  return folder_ / fmt::format("{}.{}.{}.{}", to_string(id.step), id.pod, id.start, kind);
}

fs::path PodRegistry::placement_of(const PodId& id) const { return file_of(id, kPlan); }
fs::path PodRegistry::ends_of(const PodId& id) const { return file_of(id, kEnds); }

void PodRegistry::note_held_terms(const PodId& id, const std::set<uint32_t>& ranks) const {
  const fs::path file = file_of(id, kTerms);
  if (ranks.empty()) {
    unlink(file.c_str());
    return;
  }
  const Status written = write_file_durable(file, fmt::format("{}\n", fmt::join(ranks, " ")), 0644);
  if (!written) log_error(written.message());
}

std::set<uint32_t> PodRegistry::held_terms_of(const PodId& id) const {
  std::istringstream text(trusted_record(file_of(id, kTerms)).value_or(""));
  return {std::istream_iterator<uint32_t>(text), std::istream_iterator<uint32_t>()};
}

Status PodRegistry::note_memory_comes(const PodId& id) const {
  return write_file_durable(file_of(id, kMemory), "", 0644);
}

void PodRegistry::note_memory_came(const PodId& id) const { unlink(file_of(id, kMemory).c_str()); }

bool PodRegistry::memory_comes(const PodId& id) const {
  return trusted_record(file_of(id, kMemory)).has_value();
}

bool PodRegistry::any_memory_comes() const {
  std::error_code ignored;  // no folder, no pods
  const fs::directory_iterator files(folder_, ignored);
  return std::any_of(begin(files), end(files), [](const fs::directory_entry& entry) {
    return entry.path().extension() == fmt::format(".{}", kMemory);
  });
}

Status PodRegistry::put(const PodRecord& record) const {
  FERMATA_TRY(make_record_folder(folder_.parent_path()));
  FERMATA_TRY(make_record_folder(folder_));
  return write_file_durable(file_of(record.id, kRecord), text_of(record), 0644);
}

void PodRegistry::remove(const PodId& id) const {
  for (const std::string_view kind : kBeside) unlink(file_of(id, kind).c_str());
  unlink(file_of(id, kRecord).c_str());
}

std::vector<PodRecord> PodRegistry::all() const {
  std::vector<PodRecord> records;
  std::error_code ignored;  // no folder, no pods
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored)) {
    if (entry.path().extension() != ".json") continue;
    if (std::optional<PodRecord> record = record_of(entry.path())) {
      records.push_back(*std::move(record));
    }
  }
  std::sort(records.begin(), records.end(),
            [](const PodRecord& a, const PodRecord& b) { return a.id < b.id; });
  return records;
}

void PodRegistry::tidy() const {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, ignored)) {
    fs::path path = entry.path();
    if (path.extension() == fmt::format(".{}", kRecord)) continue;
    const bool beside = std::any_of(kBeside.begin(), kBeside.end(), [&](std::string_view kind) {
      return path.extension() == fmt::format(".{}", kind);
    });
    if (beside && fs::exists(path.replace_extension(kRecord), ignored)) continue;
    unlink(entry.path().c_str());
  }
}

}  // namespace fermata::node_agent
