#include "common/fault_point.h"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <thread>

namespace fermata {
namespace {

/// The action for `name` in "NAME:ACTION,NAME:ACTION"; empty: none.
std::string_view action_for(std::string_view name, std::string_view list) {
  while (!list.empty()) {
    const std::string_view entry = list.substr(0, list.find(','));
    list.remove_prefix(std::min(entry.size() + 1, list.size()));
    const size_t colon = entry.find(':');
    if (colon != std::string_view::npos && entry.substr(0, colon) == name) {
      return entry.substr(colon + 1);
    }
  }
  return {};
}

}  // namespace

Status reach_fault_point(std::string_view name) {
  const char* list = ::secure_getenv("FERMATA_FAULT");
  if (list == nullptr) return Status::ok();
  std::string_view action = action_for(name, list);
  if (action.empty()) return Status::ok();
  if (action == "kill") {
    ::kill(::getpid(), SIGKILL);
  } else if (action == "error") {
    return {Code::kInternal, fmt::format("fault point {}", name)};
  } else if (action.starts_with("sleep=")) {
    action.remove_prefix(6);
    unsigned ms = 0;
    const auto [stop, error] = std::from_chars(action.data(), action.data() + action.size(), ms);
    if (error == std::errc{} && stop == action.data() + action.size()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(ms));
      return Status::ok();
    }
  }
  // A misspelt action must not let a test pass.
  return {Code::kUsage,
          fmt::format("FERMATA_FAULT: '{}' is no action: kill, error or sleep=MS", action)};
}

}  // namespace fermata
