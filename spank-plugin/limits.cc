#include "spank-plugin/limits.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

namespace fermata::spank_plugin {
namespace {

/// A row of the table in which slurmstepd keeps what slurm.conf says
/// (src/common/slurm_rlimits_info.h of Slurm 22.05 to 24.05).
struct SlurmLimit {
  int resource;
  const char* name;
  int propagate;
};

/// Whether the site hands a limit down; a Slurm that does not show its table does, as by default.
bool site_propagates(std::string_view name) {
  using Table = const SlurmLimit* (*)();
  const auto table = reinterpret_cast<Table>(dlsym(RTLD_DEFAULT, "get_slurm_rlimits_info"));
  if (table == nullptr) return true;
  for (const SlurmLimit* row = table(); row != nullptr && row->name != nullptr; ++row) {
    if (name == row->name) return row->propagate == 1;
  }
  return true;
}

struct Limit {
  std::string_view name;
  __rlimit_resource_t resource;
};
constexpr Limit kLimits[] = {
    {"CPU", RLIMIT_CPU},         {"FSIZE", RLIMIT_FSIZE}, {"DATA", RLIMIT_DATA},
    {"STACK", RLIMIT_STACK},     {"CORE", RLIMIT_CORE},   {"RSS", RLIMIT_RSS},
    {"NPROC", RLIMIT_NPROC},     {"AS", RLIMIT_AS},       {"NOFILE", RLIMIT_NOFILE},
    {"MEMLOCK", RLIMIT_MEMLOCK},
};

/// nullopt: it is none, or not for us to set.
std::optional<rlim_t> value_of(const Limit& limit, std::string_view text) {
  // A leading U: the user asked for it by --propagate.
  const bool asked = text.starts_with('U');
  if (asked) text.remove_prefix(1);
  if (!asked && !site_propagates(limit.name)) return std::nullopt;
  rlim_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::vector<SoftLimit> take_limits(std::vector<std::string>& environment) {
  constexpr std::string_view kPrefix = "SLURM_RLIMIT_";
  std::vector<SoftLimit> found;
  std::erase_if(environment, [&](const std::string& entry) {
    const std::string_view variable(entry);
    const size_t equals = variable.find('=');
    if (!variable.starts_with(kPrefix) || equals == std::string_view::npos) return false;
    const std::string_view name = variable.substr(kPrefix.size(), equals - kPrefix.size());
    for (const Limit& limit : kLimits) {
      if (limit.name != name) continue;
      const std::optional<rlim_t> value = value_of(limit, variable.substr(equals + 1));
      if (value) found.push_back({limit.resource, *value});
    }
    return true;
  });
  return found;
}

void set_limits(const std::vector<SoftLimit>& limits) {
  for (const SoftLimit& limit : limits) {
    const auto resource = static_cast<__rlimit_resource_t>(limit.resource);
    rlimit now{};
    if (getrlimit(resource, &now) != 0) continue;
    now.rlim_cur = std::min(limit.value, now.rlim_max);
    setrlimit(resource, &now);
  }
}

}  // namespace fermata::spank_plugin
