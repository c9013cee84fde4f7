#include "node-agent/pod/podinit_config.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

namespace fermata::pod {
namespace {

constexpr std::string_view kMagic = "fermata-podinit 3";

class Writer {
 public:
  void text(std::string_view value) {
    out_.append(value);
    out_.push_back('\0');
  }
  void number(uint64_t value) { text(std::to_string(value)); }
  void numbers(const std::vector<uint32_t>& values) {
    number(values.size());
    for (const uint32_t value : values) number(value);
  }
  void list(const std::vector<std::string>& values) {
    number(values.size());
    for (const std::string& value : values) text(value);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  std::string text() {
    const size_t end = rest_.find('\0');
    if (end == std::string_view::npos) {
      good_ = false;
      return {};
    }
    std::string value(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return value;
  }
  uint64_t number(uint64_t limit) {
    const std::string digits = text();
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value > limit) {
      good_ = false;
      return 0;
    }
    return value;
  }
  std::vector<uint32_t> numbers() {
    const uint64_t count = number(rest_.size());
    std::vector<uint32_t> values;
    for (uint64_t i = 0; i < count && good_; ++i) {
      values.push_back(static_cast<uint32_t>(number(UINT32_MAX)));
    }
    return values;
  }
  std::vector<std::string> list() {
    // Each entry takes at least its NUL, so a count beyond what is left is wrong.
    const uint64_t count = number(rest_.size());
    std::vector<std::string> values;
    for (uint64_t i = 0; i < count && good_; ++i) values.push_back(text());
    return values;
  }
  bool good() const { return good_; }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
  bool good_ = true;
};

/// Every rank has a pod, every pod a name of its own, and this pod is one of them.
bool describes_a_step(const PodinitConfig& config) {
  const std::set<std::string_view> names(config.hosts.begin(), config.hosts.end());
  return config.ranks > 0 && config.pod_of_rank.size() == config.ranks &&
         config.pod < config.hosts.size() && names.size() == config.hosts.size() &&
         !names.contains("") &&
         std::all_of(config.pod_of_rank.begin(), config.pod_of_rank.end(),
                     [&](uint32_t pod) { return pod < config.hosts.size(); });
}

/// One for all ranks, or one for each of this pod.
bool has_commands(const PodinitConfig& config) {
  if (config.starts.empty()) return !config.command.empty();
  const auto here = std::count(config.pod_of_rank.begin(), config.pod_of_rank.end(), config.pod);
  return static_cast<size_t>(here) == config.starts.size() &&
         std::none_of(config.starts.begin(), config.starts.end(),
                      [](const RankStart& start) { return start.command.empty(); });
}

}  // namespace

std::string encode(const PodinitConfig& config) {
  Writer out;
  out.text(kMagic);
  out.number(config.job.job);
  out.number(config.job.step);
  out.number(config.ranks);
  out.number(config.pod);
  out.numbers(config.pod_of_rank);
  out.list(config.hosts);
  out.text(config.program);
  out.list(config.command);
  out.list(config.environment);
  out.number(config.umask);
  out.number(config.starts.size());
  for (const RankStart& start : config.starts) {
    out.text(start.program);
    out.list(start.command);
    out.list(start.environment);
    out.numbers(start.processors);
  }
  return out.take();
}

Result<PodinitConfig> decode_podinit_config(const std::string& text) {
  Reader in(text);
  const std::string magic = in.text();
  PodinitConfig config;
  config.job.job = in.number(UINT64_MAX);
  config.job.step = static_cast<uint32_t>(in.number(UINT32_MAX));
  config.ranks = static_cast<uint32_t>(in.number(UINT32_MAX));
  config.pod = static_cast<uint32_t>(in.number(UINT32_MAX));
  config.pod_of_rank = in.numbers();
  config.hosts = in.list();
  config.program = in.text();
  config.command = in.list();
  config.environment = in.list();
  config.umask = static_cast<uint32_t>(in.number(0777));
  const uint64_t starts = in.number(UINT32_MAX);
  for (uint64_t i = 0; i < starts && in.good(); ++i) {
    RankStart& start = config.starts.emplace_back();
    start.program = in.text();
    start.command = in.list();
    start.environment = in.list();
    start.processors = in.numbers();
  }
  if (magic != kMagic || !in.good() || !in.at_end() || !has_commands(config) ||
      !describes_a_step(config)) {
    return failure(Code::kInternal,
                   "the configuration of podinit is not one of this version; fermata and "
                   "fermata-podinit have to be of the same build");
  }
  return config;
}

}  // namespace fermata::pod
