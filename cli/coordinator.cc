#include "cli/coordinator.h"

#include <fmt/format.h>

namespace fermata::cli {

std::unique_ptr<CoordinatorAccess> CoordinatorAccess::of(const Invocation& invocation) {
  if (invocation.coordinator().empty()) return nullptr;
  return std::make_unique<CoordinatorAccess>(invocation);
}

Failure needs_coordinator(std::string_view option) {
  return failure(Code::kUsage,
                 fmt::format("{} needs a coordinator: \"coordinator\" in the config file, "
                             "$FERMATA_COORDINATOR or --coordinator names it",
                             option));
}

std::vector<std::string> split_names(std::string_view list) {
  std::vector<std::string> names;
  while (!list.empty()) {
    const size_t comma = list.find(',');
    const std::string_view name = list.substr(0, comma);
    if (!name.empty()) names.emplace_back(name);
    list = comma == std::string_view::npos ? "" : list.substr(comma + 1);
  }
  return names;
}

}  // namespace fermata::cli
