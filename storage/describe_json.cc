#include <nlohmann/json.hpp>

#include "storage/describe.h"
#include "storage/summary.h"

namespace fermata::storage {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const BytesByWhere& bytes) {
  Json json = Json::object();
  for (size_t i = 0; i < bytes.size(); ++i) json[where_name(static_cast<Where>(i))] = bytes[i];
  return json;
}

Json header_json(const ImageHeader& header) {
  return {
      {"format", std::to_string(header.format_major) + "." + std::to_string(header.format_minor)},
      {"crid", header.crid.value},
      {"parent", header.parent.value},
      {"job", header.job.job},
      {"step", header.job.step},
      {"pod", header.pod},
      {"host", header.host},
      {"kernel", header.kernel},
      {"time", header.time},
      {"tool_version", header.tool_version},
      {"track", header.track}};
}

Json threads_json(const ProcessSummary& summary) {
  std::map<int, const image::ThreadPlacement*> placed;
  for (const image::ThreadPlacement* thread : summary.threads) placed[thread->vtid()] = thread;
  Json threads = Json::array();
  for (const image::Thread& thread : summary.process->threads()) {
    Json one{{"tid", thread.vtid()}, {"name", thread.name()}};
    if (const auto found = placed.find(thread.vtid()); found != placed.end()) {
      one["cpus"] = found->second->cpuset();
      one["memory_policy"] = found->second->policy_mode();
      one["memory_policy_nodes"] = found->second->policy_nodes();
    }
    threads.push_back(std::move(one));
  }
  return threads;
}

Json process_json(const ProcessSummary& summary) {
  const image::Process& process = *summary.process;
  Json nodes = Json::object();
  for (const auto& [node, bytes] : summary.bytes_on_node) nodes[std::to_string(node)] = bytes;
  return {{"pid", process.vpid()},
          {"parent", process.parent()},
          {"group", process.group()},
          {"session", process.session()},
          {"name", process.name()},
          {"exe", process.mm().exe()},
          {"cwd", process.cwd()},
          {"uid", process.uid()},
          {"gid", process.gid()},
          {"zombie", process.zombie()},
          {"stopped", process.stopped()},
          {"threads", threads_json(summary)},
          {"maps", process.vmas_size()},
          {"files", summary.files},
          {"memory", to_json(summary.memory)},
          {"range_bytes_on_node", std::move(nodes)},
          {"ranges_with_memory_policy", summary.bound_ranges}};
}

}  // namespace

std::string describe_json(const PodImage& image) {
  const ImageSummary summary = summarize(image);
  Json json = header_json(image.header);
  json["needs"] = {{"kernel_release", image.objects.needs().kernel_release()},
                   {"cpu_vendor", image.objects.needs().cpu_vendor()},
                   {"xstate_size", image.objects.needs().xstate_size()}};
  json["host_name"] = image.objects.pod().host_name();
  json["processes"] = Json::array();
  for (const ProcessSummary& process : summary.processes) {
    json["processes"].push_back(process_json(process));
  }
  json["files"] = summary.files;
  json["shared_objects"] = image.objects.shared_objects_size();
  json["shm_nodes"] = image.objects.shm_nodes_size();
  json["memory"] = to_json(summary.memory);
  json["shared_memory"] = to_json(summary.object_memory);
  json["numa_nodes"] = image.placement.numa_nodes();
  json["topology"] = image.placement.topology_signature();
  // Names need not be UTF-8; JSON must.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fermata::storage
