#include "cli/coordinator.h"

#include <fmt/format.h>
#include <unistd.h>

namespace fermata::cli {

namespace {

/// The group first and last: it takes the rights of the user that is given up.
bool set_effective(uid_t uid, gid_t gid) {
  if (geteuid() == uid && getegid() == gid) return true;
  if (geteuid() == 0) return setegid(gid) == 0 && seteuid(uid) == 0;
  return seteuid(uid) == 0 && setegid(gid) == 0;
}

}  // namespace

AsCaller::AsCaller() : uid_(geteuid()), gid_(getegid()) {
  if (set_effective(getuid(), getgid())) return;
  // To go on would be to ask as somebody else.
  _exit(fail(errno_status(errno, "giving up the rights of a setuid program")));
}

AsCaller::~AsCaller() {
  // What needs the rights fails without them, and says so.
  [[maybe_unused]] const bool set = set_effective(uid_, gid_);
}

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
