#include "common/stub_message.h"

#include <charconv>
#include <limits>

namespace fermata {
namespace {

bool take(std::string_view& text, std::string& out) {
  const size_t end = text.find('\0');
  if (end == std::string_view::npos) return false;
  out = text.substr(0, end);
  text.remove_prefix(end + 1);
  return true;
}

std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string encode_stub_fields(const StubFields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) {
    text.append(name).push_back('\0');
    text.append(value).push_back('\0');
  }
  return text;
}

std::optional<StubFields> decode_stub_fields(std::string_view text) {
  StubFields fields;
  while (!text.empty()) {
    auto& [name, value] = fields.emplace_back();
    if (!take(text, name) || !take(text, value)) return std::nullopt;
  }
  return fields;
}

std::string_view stub_field(const StubFields& fields, std::string_view name) {
  for (const auto& [key, value] : fields) {
    if (key == name) return value;
  }
  return {};
}

uint64_t stub_number(const StubFields& fields, std::string_view name) {
  return number_of(stub_field(fields, name)).value_or(0);
}

std::optional<std::string> wrong_stub_version(const StubFields& fields) {
  const std::string_view version = stub_field(fields, "version");
  if (version == kStubVersion) return std::nullopt;
  return "Slurm's plugin of Fermata speaks version " +
         (version.empty() ? std::string("0") : std::string(version)) +
         " of its messages, the fermata-agentd of this node version " + kStubVersion +
         ": both have to be of one release";
}

StubFields to_fields(const StepTask& task) {
  StubFields fields{{"version", kStubVersion},
                    {"kind", "task"},
                    {"job", std::to_string(task.job)},
                    {"step", std::to_string(task.step)},
                    {"start", std::to_string(task.start)},
                    {"uid", std::to_string(task.uid)},
                    {"gid", std::to_string(task.gid)},
                    {"node", std::to_string(task.node)},
                    {"nodes", std::to_string(task.nodes)},
                    {"ranks", std::to_string(task.ranks)},
                    {"here", std::to_string(task.here)},
                    {"rank", std::to_string(task.rank)},
                    {"interval_ms", std::to_string(task.interval_ms)},
                    {"dir", task.dir},
                    {"restart_dir", task.restart_dir},
                    {"restart", task.restart},
                    {"skip_done", task.skip_done ? "1" : "0"},
                    {"before_end_ms", std::to_string(task.before_end_ms)},
                    {"before_end_default", task.before_end_default ? "1" : "0"},
                    {"compress", task.compress}};
  for (const gid_t group : task.groups) fields.emplace_back("group", std::to_string(group));
  return fields;
}

std::optional<StepTask> step_task_of(const StubFields& fields) {
  bool good = true;
  const auto small_number = [&](std::string_view text) {
    // What is no number must not become user or group 0.
    const std::optional<uint64_t> value = number_of(text);
    good = good && value && *value <= std::numeric_limits<uint32_t>::max();
    return static_cast<uint32_t>(value.value_or(0));
  };
  const auto small = [&](std::string_view name) { return small_number(stub_field(fields, name)); };
  StepTask task;
  task.job = stub_number(fields, "job");
  task.step = small("step");
  task.start = small("start");
  task.uid = small("uid");
  task.gid = small("gid");
  task.node = small("node");
  task.nodes = small("nodes");
  task.ranks = small("ranks");
  task.here = small("here");
  task.rank = small("rank");
  task.interval_ms = stub_number(fields, "interval_ms");
  task.dir = stub_field(fields, "dir");
  task.restart_dir = stub_field(fields, "restart_dir");
  task.restart = stub_field(fields, "restart");
  task.skip_done = stub_field(fields, "skip_done") == "1";
  task.before_end_ms = stub_number(fields, "before_end_ms");
  task.before_end_default = stub_field(fields, "before_end_default") == "1";
  task.compress = stub_field(fields, "compress");
  for (const auto& [name, value] : fields) {
    if (name == "group") task.groups.push_back(small_number(value));
  }
  if (!good || task.node >= task.nodes || task.rank >= task.ranks || task.here > task.ranks) {
    return std::nullopt;
  }
  return task;
}

StubFields to_fields(const TaskCommand& command) {
  StubFields fields{{"program", command.program}, {"folder", command.working_directory}};
  for (const std::string& word : command.command) fields.emplace_back("word", word);
  for (const std::string& entry : command.environment) fields.emplace_back("variable", entry);
  return fields;
}

TaskCommand task_command_of(const StubFields& fields) {
  TaskCommand command;
  for (const auto& [name, value] : fields) {
    if (name == "program") command.program = value;
    if (name == "folder") command.working_directory = value;
    if (name == "word") command.command.push_back(value);
    if (name == "variable") command.environment.push_back(value);
  }
  return command;
}

}  // namespace fermata
