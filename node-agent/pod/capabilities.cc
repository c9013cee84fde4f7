// Which capabilities a pod needs and why; capget(2) tells which of them this process has.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string_view>

#include "node-agent/pod/pod.h"

namespace fermata::pod {
namespace {

struct Need {
  int capability;
  int substitute;  ///< serves as well, or the same again
  std::string_view name;
};

constexpr std::array<Need, 10> kNeeds{{
    // Namespaces, mounts, setns, the cgroup.
    {CAP_SYS_ADMIN, CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
    // Stopping and reading processes of other users.
    {CAP_SYS_PTRACE, CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
    {CAP_KILL, CAP_KILL, "CAP_KILL"},
    // Becoming the job's user.
    {CAP_SETUID, CAP_SETUID, "CAP_SETUID"},
    {CAP_SETGID, CAP_SETGID, "CAP_SETGID"},
    // setns(2) into a mount namespace asks for it beside CAP_SYS_ADMIN.
    {CAP_SYS_CHROOT, CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
    // Clock offsets of a restarted pod (time_namespaces(7)).
    {CAP_SYS_TIME, CAP_SYS_TIME, "CAP_SYS_TIME"},
    // TCP_REPAIR.
    {CAP_NET_ADMIN, CAP_NET_ADMIN, "CAP_NET_ADMIN"},
    // /proc/PID of other users, and groups under /sys/fs/cgroup.
    {CAP_DAC_OVERRIDE, CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
    // clone3(set_tid), /proc/PID/map_files; CAP_SYS_ADMIN serves too (capabilities(7)).
    {CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, "CAP_CHECKPOINT_RESTORE"},
}};

}  // namespace

std::string missing_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  uint64_t effective = 0;
  if (syscall(SYS_capget, &header, data.data()) == 0) {
    effective = data[0].effective | (uint64_t{data[1].effective} << 32);
  }
  const auto has = [effective](int capability) { return ((effective >> capability) & 1) != 0; };
  std::string missing;
  for (const Need& need : kNeeds) {
    if (has(need.capability) || has(need.substitute)) continue;
    if (!missing.empty()) missing += ", ";
    missing += need.name;
  }
  return missing;
}

}  // namespace fermata::pod
