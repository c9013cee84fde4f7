#include "common/config.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <array>

#include "common/compression.h"
#include "common/file_util.h"
#include "common/size_parse.h"
#include "common/time_parse.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace fermata {
namespace {

constexpr const char* kSystemFile = "/etc/fermata/fermata.toml";

Failure wrong(const std::filesystem::path& file, const toml::source_region& where,
              std::string_view sentence) {
  return failure(Code::kUsage, fmt::format("{}:{}:{}: {}", file.string(), where.begin.line,
                                           where.begin.column, sentence));
}

Status apply_absolute(std::string_view key, const toml::node& node, std::filesystem::path& out) {
  const auto text = node.value_exact<std::string>();
  if (!text || !text->starts_with('/')) {
    return {Code::kUsage, fmt::format("{}: an absolute path in quotes is expected", key)};
  }
  out = *text;
  return Status::ok();
}

Status apply_address(std::string_view key, const toml::node& node, std::string& out) {
  const auto text = node.value_exact<std::string>();
  if (!text || text->find(':') == std::string::npos) {
    return {Code::kUsage, fmt::format("{}: \"host:port\" in quotes is expected", key)};
  }
  out = *text;
  return Status::ok();
}

Status apply_number(std::string_view key, const toml::node& node, uint32_t& out) {
  const auto number = node.value_exact<int64_t>();
  if (!number || *number < 0 || *number > UINT32_MAX) {
    return {Code::kUsage, fmt::format("{}: a number from 0 on is expected", key)};
  }
  out = static_cast<uint32_t>(*number);
  return Status::ok();
}

/// The keys of the service. False: it is none of them.
Result<bool> apply_service(std::string_view key, const toml::node& node, Config& config) {
  if (key == "coordinator") {
    FERMATA_TRY_RESULT(apply_address(key, node, config.coordinator));
  } else if (key == "listen") {
    FERMATA_TRY_RESULT(apply_address(key, node, config.listen));
  } else if (key == "relay_listen") {
    FERMATA_TRY_RESULT(apply_address(key, node, config.relay_listen));
  } else if (key == "state_dir") {
    FERMATA_TRY_RESULT(apply_absolute(key, node, config.state_dir));
  } else if (key == "run_dir") {
    FERMATA_TRY_RESULT(apply_absolute(key, node, config.run_dir));
  } else if (key == "node_name") {
    const auto name = node.value_exact<std::string>();
    if (!name || name->empty()) {
      return failure(Code::kUsage, "node_name: a name in quotes is expected");
    }
    config.node_name = *name;
  } else if (key == "max_writers") {
    FERMATA_TRY_RESULT(apply_number(key, node, config.max_writers));
  } else if (key == "slots") {
    FERMATA_TRY_RESULT(apply_number(key, node, config.slots));
  } else if (key == "tree_arity") {
    FERMATA_TRY_RESULT(apply_number(key, node, config.tree_arity));
    if (config.tree_arity == 0) {
      return failure(Code::kUsage, "tree_arity: a number from 1 on is expected");
    }
  } else if (key == "preempt_sets") {
    const auto wanted = node.value_exact<bool>();
    if (!wanted) return failure(Code::kUsage, "preempt_sets: true or false is expected");
    config.preempt_sets = *wanted;
  } else if (key == "node_grace") {
    const auto grace = parse_duration(node.value_exact<std::string>().value_or(""));
    if (!grace) return Failure(grace.error().within(key));
    config.node_grace = *grace;
  } else {
    return false;
  }
  return true;
}

/// Stores the value of one key. A failure has the sentence only; the caller adds the place.
Status apply(std::string_view key, const toml::node& node, Config& config) {
  FERMATA_ASSIGN_STATUS(const bool applied, apply_service(key, node, config));
  if (applied) return Status::ok();
  const auto text = node.value_exact<std::string>();
  if (key == "checkpoint_dir") {
    if (!text || !text->starts_with('/')) {
      return {Code::kUsage, "checkpoint_dir: an absolute path in quotes is expected"};
    }
    config.checkpoint_dir = *text;
  } else if (key == "keep_sets") {
    FERMATA_TRY(apply_number(key, node, config.keep_sets));
  } else if (key == "log_level") {
    FERMATA_ASSIGN_STATUS(config.log_level, parse_log_level(text.value_or("")));
  } else if (key == "log_format") {
    FERMATA_ASSIGN_STATUS(config.log_format, parse_log_format(text.value_or("")));
  } else if (key == "munge_socket") {
    if (!text || !text->starts_with('/')) {
      return {Code::kUsage, "munge_socket: an absolute path in quotes is expected"};
    }
    config.munge_socket = *text;
  } else if (key == "track") {
    constexpr std::array<std::string_view, 5> kWays{"auto", "uffd", "soft-dirty", "hash", "none"};
    if (!text || std::find(kWays.begin(), kWays.end(), *text) == kWays.end()) {
      return {Code::kUsage,
              "track: \"auto\", \"uffd\", \"soft-dirty\", \"hash\" or \"none\" is expected"};
    }
    config.track = *text;
  } else if (key == "full_every") {
    constexpr uint32_t kMost = 200;
    FERMATA_TRY(apply_number(key, node, config.full_every));
    if (config.full_every == 0 || config.full_every > kMost) {
      return {Code::kUsage, fmt::format("full_every: a number from 1 to {} is expected", kMost)};
    }
  } else if (key == "precopy") {
    FERMATA_TRY(apply_number(key, node, config.precopy));
    if (config.precopy > kMostPrecopyRounds) {
      return {Code::kUsage,
              fmt::format("precopy: a number from 0 to {} is expected", kMostPrecopyRounds)};
    }
  } else if (key == "slurm_user") {
    if (!text) return {Code::kUsage, "slurm_user: a login name in quotes is expected"};
    config.slurm_user = *text;
  } else if (key == "compress") {
    const Result<Compression> known = parse_compression(text.value_or(""));
    if (!known) return known.error().within("compress");
    config.compress = *text;
  } else if (key == "write_bandwidth") {
    const Result<uint64_t> size = parse_size(text.value_or(""));
    if (!size) return size.error().within("write_bandwidth");
    config.write_bandwidth = *size;
  } else {
    return {Code::kUsage,
            fmt::format("there is no key '{}': docs/fermata.toml lists those that are", key)};
  }
  return Status::ok();
}

}  // namespace

Result<Config> load_config(const std::filesystem::path& file) {
  FERMATA_ASSIGN(const std::string text, read_file(file));
  const toml::parse_result parsed = toml::parse(text, file.string());
  if (!parsed) {
    return wrong(file, parsed.error().source(), parsed.error().description());
  }
  Config config;
  for (const auto& [key, node] : parsed.table()) {
    if (const Status status = apply(key.str(), node, config); !status) {
      return wrong(file, key.source(), status.message());
    }
  }
  return config;
}

Result<Config> load_config() {
  if (const char* named = ::secure_getenv("FERMATA_CONFIG"); named != nullptr && *named != '\0') {
    auto config = load_config(std::filesystem::path(named));
    if (!config) return Failure(config.error().within("FERMATA_CONFIG"));
    return config;
  }
  auto config = load_config(std::filesystem::path(kSystemFile));
  if (!config && config.error().code() == Code::kNotFound) return Config{};
  return config;
}

}  // namespace fermata
