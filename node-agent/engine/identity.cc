#include "node-agent/engine/identity.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace fermata::engine {
namespace {

constexpr std::array<const char*, 7> kNamespaces{"mnt", "pid", "ipc", "uts", "time", "net", "user"};

Status check_namespaces(const HeldProcess& process, const HeldProcess& init) {
  for (const char* name : kNamespaces) {
    FERMATA_ASSIGN_STATUS(const std::string own,
                          read_link(fmt::format("/proc/{}/ns/{}", process.pid, name)));
    FERMATA_ASSIGN_STATUS(const std::string pod,
                          read_link(fmt::format("/proc/{}/ns/{}", init.pid, name)));
    if (own != pod) {
      return {Code::kCannotHold,
              fmt::format("{} has a {} namespace of its own (a container inside the job?): it "
                          "cannot be held",
                          process.describe(), name)};
    }
  }
  FERMATA_ASSIGN_STATUS(const std::string root,
                        read_link(fmt::format("/proc/{}/root", process.pid)));
  if (root != "/") {
    return {Code::kCannotHold, fmt::format("{} has changed its root directory to {}: it cannot be "
                                           "held",
                                           process.describe(), root)};
  }
  return Status::ok();
}

/// Capability sets as capset(2) takes them, version 3.
struct CapabilitySets {
  __user_cap_header_struct header;
  std::array<__user_cap_data_struct, 2> data;
};

CapabilitySets sets_of(const image::Capabilities& capabilities) {
  CapabilitySets sets{};
  sets.header.version = _LINUX_CAPABILITY_VERSION_3;
  for (size_t word = 0; word < 2; ++word) {
    const size_t shift = 32 * word;
    sets.data[word].effective = static_cast<uint32_t>(capabilities.effective() >> shift);
    sets.data[word].permitted = static_cast<uint32_t>(capabilities.permitted() >> shift);
    sets.data[word].inheritable = static_cast<uint32_t>(capabilities.inheritable() >> shift);
  }
  return sets;
}

}  // namespace

Status check_identity(const HeldProcess& process, const HeldProcess& init) {
  FERMATA_TRY(check_namespaces(process, init));
  const ProcStatus& pod = init.leader().status;
  for (const HeldThread& thread : process.threads) {
    const ProcStatus& own = thread.status;
    if (own.groups != pod.groups) {
      return {Code::kCannotHold,
              fmt::format("{} is in other supplementary groups than the job's user: a change of "
                          "groups inside a job cannot be rebuilt",
                          process.describe())};
    }
    if (own.uids != pod.uids || own.gids != pod.gids) {
      return {Code::kCannotHold,
              fmt::format("{} runs as user {} group {}, the job as user {} group {}: a change of "
                          "user inside a job cannot be rebuilt",
                          process.describe(), own.uids[1], own.gids[1], pod.uids[1], pod.gids[1])};
    }
    if (own.cap_ambient != 0) {
      return {Code::kCannotHold, fmt::format("{} has ambient capabilities, which cannot be rebuilt",
                                             process.describe())};
    }
    if (::syscall(SYS_kcmp, process.pid, thread.tid, KCMP_FILES, 0, 0) > 0 ||
        ::syscall(SYS_kcmp, process.pid, thread.tid, KCMP_FS, 0, 0) > 0) {
      return {Code::kCannotHold, fmt::format("{}: its thread {} has a file table or directory of "
                                             "its own (unshare), which cannot be "
                                             "rebuilt",
                                             process.describe(), own.vtid)};
    }
    if (own.seccomp != 0) {
      return {Code::kCannotHold,
              fmt::format("{} has a seccomp filter, which cannot be rebuilt: turn the program's "
                          "sandbox off",
                          process.describe())};
    }
  }
  return Status::ok();
}

namespace {

/// What building needs once files are opened as the owner; each of the others could open more than
/// the owner may.
constexpr std::array<int, 6> kBuildingCapabilities{
    CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_SYS_ADMIN, CAP_IPC_LOCK, CAP_CHECKPOINT_RESTORE};

/// An ordinary owner's process under construction has the owner's effective user: so /proc/sys, the
/// credentials of sockets and every open see nobody else. Real and saved user stay root's until
/// take_identity().
Status take_effective_user(RebuildRemote& remote, const Credentials& owner) {
  constexpr auto kKeep = static_cast<uint64_t>(-1);
  std::array<RemoteCall, 3> calls{
      RemoteCall{SYS_prctl, {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP}, 0},
      RemoteCall{SYS_setresgid, {kKeep, owner.gid, kKeep}, 0},
      RemoteCall{SYS_setresuid, {kKeep, owner.uid, kKeep}, 0}};
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result != 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("taking on user {} (call {})", owner.name, one.number));
    }
  }
  const uint64_t args = remote.argument_address();
  const uint64_t data = args + offsetof(CapabilitySets, data);
  CapabilitySets sets{};
  sets.header.version = _LINUX_CAPABILITY_VERSION_3;
  FERMATA_TRY(remote.put(args, sets));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long read,
                        remote.call("capget", SYS_capget, {args, data}));
  FERMATA_TRY(remote.get(args, sets));
  std::array<uint32_t, 2> keep{};
  for (const int capability : kBuildingCapabilities) {
    const auto bit = static_cast<unsigned>(capability);
    keep.at(bit / 32) |= 1U << bit % 32;
  }
  for (size_t word = 0; word < 2; ++word)
    sets.data[word].effective = sets.data[word].permitted & keep[word];
  FERMATA_TRY(remote.put(args, sets));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                        remote.call("capset", SYS_capset, {args, data}));
  return Status::ok();
}

}  // namespace

Status take_file_identity(RebuildRemote& remote, const Credentials& owner) {
  std::vector<gid_t> groups = owner.groups;
  if (groups.size() * sizeof(gid_t) > Remote::argument_size()) {
    return {Code::kInternal, fmt::format("user {} is in {} groups", owner.name, groups.size())};
  }
  const uint64_t args = remote.argument_address();
  FERMATA_TRY(remote.write_memory(args, std::as_bytes(std::span(groups))));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long grouped,
                        remote.call("setgroups", SYS_setgroups, {groups.size(), args}));
  std::array<RemoteCall, 2> calls{RemoteCall{SYS_setfsgid, {owner.gid}, 0},
                                  RemoteCall{SYS_setfsuid, {owner.uid}, 0}};
  FERMATA_TRY(remote.run(calls));
  // setfsuid tells of no error: ask again what it is.
  FERMATA_TRY(remote.run(calls));
  if (calls[0].result != static_cast<long>(owner.gid) ||
      calls[1].result != static_cast<long>(owner.uid)) {
    return {Code::kPermission,
            fmt::format("process {} could not take on the file rights of user {}", remote.pid(),
                        owner.name)};
  }
  return owner.uid == 0 ? Status::ok() : take_effective_user(remote, owner);
}

Status take_identity(RebuildRemote& remote, const Credentials& owner, const image::Thread& thread) {
  const uint64_t args = remote.argument_address();
  const image::Capabilities& had = thread.capabilities();
  std::vector<RemoteCall> calls;
  for (uint64_t capability = 0; capability < 64; ++capability) {
    if ((had.bounding() >> capability & 1) == 0) {
      calls.push_back({SYS_prctl, {PR_CAPBSET_DROP, capability}, 0});
    }
  }
  FERMATA_TRY(remote.run(calls));  // EINVAL: the kernel does not know that capability
  // Without securebits the change of user takes all capabilities away (capabilities(7)).
  calls = {{SYS_setresgid, {owner.gid, owner.gid, owner.gid}, 0},
           {SYS_prctl, {PR_SET_SECUREBITS, 0}, 0},
           {SYS_setresuid, {owner.uid, owner.uid, owner.uid}, 0}};
  if (had.no_new_privileges()) calls.push_back({SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1}, 0});
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result != 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("becoming user {} (call {})", owner.name, one.number));
    }
  }
  // A thread of root's keeps the capabilities it had, if we have them; any other has lost them all.
  CapabilitySets now{};
  now.header.version = _LINUX_CAPABILITY_VERSION_3;
  FERMATA_TRY(remote.put(args, now));
  const uint64_t data = args + offsetof(CapabilitySets, data);
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long read,
                        remote.call("capget", SYS_capget, {args, data}));
  FERMATA_TRY(remote.get(args, now));
  CapabilitySets want = sets_of(had);
  for (size_t word = 0; word < 2; ++word) {
    want.data[word].permitted &= now.data[word].permitted;
    want.data[word].effective &= want.data[word].permitted;
    want.data[word].inheritable &= now.data[word].permitted;
  }
  FERMATA_TRY(remote.put(args, want));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                        remote.call("capset", SYS_capset, {args, data}));
  return Status::ok();
}

}  // namespace fermata::engine
