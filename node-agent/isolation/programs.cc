#include "node-agent/isolation/programs.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/isolation.skel.h"
#include "common/log.h"
#include "node-agent/bpf/bpf_words.h"

namespace fermata::isolation {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOurs = "fermata_";
// Attached last and looked for by find_programs(); it uses both maps.
constexpr std::string_view kLast = "fermata_ingress";

constexpr std::array kPlaces = {
    BPF_CGROUP_INET_INGRESS,      BPF_CGROUP_INET_EGRESS,       BPF_CGROUP_SOCK_OPS,
    BPF_CGROUP_INET4_BIND,        BPF_CGROUP_INET6_BIND,        BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_INET6_CONNECT,     BPF_CGROUP_UDP4_SENDMSG,      BPF_CGROUP_UDP6_SENDMSG,
    BPF_CGROUP_UDP4_RECVMSG,      BPF_CGROUP_UDP6_RECVMSG,      BPF_CGROUP_INET4_GETSOCKNAME,
    BPF_CGROUP_INET6_GETSOCKNAME, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME,
};

// bpf(2) takes no more than 64 programs on one group.
constexpr size_t kMostPrograms = 64;

struct Skeleton {
  Skeleton() = default;
  Skeleton(const Skeleton&) = delete;
  Skeleton& operator=(const Skeleton&) = delete;
  ~Skeleton() { isolation_bpf__destroy(object); }

  isolation_bpf* object = nullptr;
};

Status load_failure(int err) {
  switch (err) {
    case EPERM:
    case EACCES:
      return errno_status(Code::kPermission, err,
                          "loading the BPF programs that isolate a pod: run as root with "
                          "CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN");
    case ENOSYS:
      return errno_status(Code::kUnsupported, err,
                          "isolating pods: this kernel has no bpf(2) (CONFIG_BPF_SYSCALL)");
    case EINVAL:
    case EOPNOTSUPP:
      return errno_status(Code::kUnsupported, err,
                          "isolating pods: the kernel refuses the BPF programs; Linux 5.10 with "
                          "CONFIG_CGROUP_BPF and CONFIG_INET is needed (the debug log has the "
                          "verifier's words)");
    default:
      return errno_status(err, "loading the BPF programs that isolate a pod");
  }
}

Status load(Skeleton& skeleton) {
  keep_bpf_words();
  skeleton.object = isolation_bpf__open();
  if (skeleton.object == nullptr) return load_failure(errno);
  if (const int result = isolation_bpf__load(skeleton.object); result != 0) {
    return load_failure(-result);
  }
  return Status::ok();
}

Result<UniqueFd> open_group(const fs::path& group) {
  UniqueFd fd(open(group.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, group.native());
  return fd;
}

struct Attached {
  UniqueFd fd;
  std::string name;
  std::vector<uint32_t> maps;
};

Result<Attached> program_by_id(uint32_t id) {
  Attached program{UniqueFd(bpf_prog_get_fd_by_id(id)), {}, {}};
  if (!program.fd) return errno_failure(errno, fmt::format("BPF program {}", id));
  bpf_prog_info info{};
  std::array<uint32_t, 8> maps{};
  info.map_ids = reinterpret_cast<uintptr_t>(maps.data());
  info.nr_map_ids = maps.size();
  uint32_t length = sizeof(info);
  if (bpf_obj_get_info_by_fd(program.fd.get(), &info, &length) != 0) {
    return errno_failure(errno, fmt::format("BPF program {}", id));
  }
  program.name = info.name;
  const size_t count = std::min<size_t>(info.nr_map_ids, maps.size());
  program.maps.assign(maps.begin(), maps.begin() + static_cast<std::ptrdiff_t>(count));
  return program;
}

/// Programs of ours that the group itself carries at this place.
Result<std::vector<Attached>> ours_at(int group, bpf_attach_type place) {
  std::array<uint32_t, kMostPrograms> ids{};
  uint32_t count = ids.size();
  uint32_t flags = 0;
  if (bpf_prog_query(group, place, 0, &flags, ids.data(), &count) != 0) {
    return errno_failure(errno, "asking for the BPF programs of a group");
  }
  std::vector<Attached> found;
  for (uint32_t i = 0; i < count; ++i) {
    Result<Attached> program = program_by_id(ids[i]);
    if (!program) {
      if (program.error().error_number() == ENOENT) continue;  // detached meanwhile
      return Failure(std::move(program).error());
    }
    if (program->name.starts_with(kOurs)) found.push_back(*std::move(program));
  }
  return found;
}

Status detach_ours(int group) {
  for (const bpf_attach_type place : kPlaces) {
    FERMATA_ASSIGN_STATUS(const std::vector<Attached> programs, ours_at(group, place));
    for (const Attached& program : programs) {
      if (bpf_prog_detach2(program.fd.get(), group, place) != 0 && errno != ENOENT) {
        return errno_status(errno, fmt::format("detaching the BPF program {}", program.name));
      }
    }
  }
  return Status::ok();
}

Status attach(int group, const bpf_program* program) {
  if (bpf_prog_attach(bpf_program__fd(program), group, bpf_program__expected_attach_type(program),
                      BPF_F_ALLOW_MULTI) == 0) {
    return Status::ok();
  }
  const int err = errno;
  const std::string what = fmt::format("attaching the BPF program {}", bpf_program__name(program));
  if (err != EPERM) return errno_status(err, what);
  return errno_status(Code::kConflict, err,
                      what +
                          ": a group above carries a program that lets no others stand beside "
                          "it (bpftool cgroup tree shows it), or CAP_NET_ADMIN is missing");
}

Status attach_all(int group, const Skeleton& skeleton) {
  const bpf_program* last = nullptr;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton.object->obj) {
    if (bpf_program__name(program) == kLast) {
      last = program;
    } else {
      FERMATA_TRY(attach(group, program));
    }
  }
  return attach(group, last);
}

Result<UniqueFd> duplicate(const bpf_map* map) {
  UniqueFd fd(fcntl(bpf_map__fd(map), F_DUPFD_CLOEXEC, 0));
  if (!fd) return errno_failure(errno, "keeping a BPF map");
  return fd;
}

Result<Maps> maps_of(const Attached& program) {
  Maps maps;
  for (const uint32_t id : program.maps) {
    UniqueFd fd(bpf_map_get_fd_by_id(id));
    if (!fd) return errno_failure(errno, fmt::format("BPF map {}", id));
    bpf_map_info info{};
    uint32_t length = sizeof(info);
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0) {
      return errno_failure(errno, fmt::format("BPF map {}", id));
    }
    const std::string_view name = info.name;
    if (name == "fermata_control") {
      maps.control = std::move(fd);
    } else if (name == "fermata_table") {
      maps.table = std::move(fd);
    }
  }
  if (!maps.control || !maps.table) {
    return failure(Code::kNotFound, "its BPF programs are of another version of Fermata");
  }
  return maps;
}

}  // namespace

Result<Maps> attach_programs(const fs::path& group) {
  FERMATA_ASSIGN(const UniqueFd folder, open_group(group));
  FERMATA_TRY_RESULT(detach_ours(folder.get()).within(group.native()));
  Skeleton skeleton;
  FERMATA_TRY_RESULT(load(skeleton));
  if (Status attached = attach_all(folder.get(), skeleton); !attached) {
    if (Status detached = detach_ours(folder.get()); !detached) log_warning(detached.message());
    return Failure(attached.within(group.native()));
  }
  Maps maps;
  FERMATA_ASSIGN(maps.control, duplicate(skeleton.object->maps.fermata_control));
  FERMATA_ASSIGN(maps.table, duplicate(skeleton.object->maps.fermata_table));
  return maps;
}

Result<Maps> find_programs(const fs::path& group) {
  FERMATA_ASSIGN(const UniqueFd folder, open_group(group));
  Result<std::vector<Attached>> programs = ours_at(folder.get(), BPF_CGROUP_INET_INGRESS);
  if (!programs) return Failure(programs.error().within(group.native()));
  for (const Attached& program : *programs) {
    if (program.name != kLast) continue;
    Result<Maps> maps = maps_of(program);
    if (!maps) return Failure(maps.error().within(group.native()));
    return maps;
  }
  return failure(Code::kNotFound, fmt::format("{}: no isolation is installed", group.native()));
}

Status try_programs() {
  Skeleton skeleton;
  return load(skeleton);
}

}  // namespace fermata::isolation
