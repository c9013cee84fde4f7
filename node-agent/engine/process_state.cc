#include "node-agent/engine/process_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "common/file_util.h"
#include "common/log.h"

namespace fermata::engine {
namespace {

constexpr size_t kLimits = 16;  // RLIM_NLIMITS

Status capture_layout(const HeldProcess& process, image::MmLayout& out) {
  FERMATA_ASSIGN_STATUS(const ProcStat stat, ProcStat::read(process.pid));
  out.set_start_code(stat.field(26));
  out.set_end_code(stat.field(27));
  out.set_start_stack(stat.field(28));
  out.set_start_data(stat.field(45));
  out.set_end_data(stat.field(46));
  out.set_start_brk(stat.field(47));
  out.set_arg_start(stat.field(48));
  out.set_arg_end(stat.field(49));
  out.set_env_start(stat.field(50));
  out.set_env_end(stat.field(51));
  FERMATA_ASSIGN_STATUS(std::string auxv, read_file(fmt::format("/proc/{}/auxv", process.pid)));
  out.set_auxv(std::move(auxv));
  FERMATA_ASSIGN_STATUS(std::string exe, read_link(fmt::format("/proc/{}/exe", process.pid)));
  if (exe.ends_with(" (deleted)")) {
    return {Code::kCannotHold,
            fmt::format("{}: its executable {} was deleted or replaced while it runs: put it back, "
                        "or end and start the program again",
                        process.describe(), exe)};
  }
  out.set_exe(std::move(exe));
  return Status::ok();
}

Status capture_switches(const HeldProcess& process, CaptureRemote& remote, image::Process& out) {
  const uint64_t args = remote.argument_address();
  FERMATA_TRY(remote.put(args, int{0}));
  std::array<RemoteCall, 4> calls{RemoteCall{SYS_prctl, {PR_GET_DUMPABLE}, 0},
                                  RemoteCall{SYS_prctl, {PR_GET_CHILD_SUBREAPER, args}, 0},
                                  RemoteCall{SYS_prctl, {PR_GET_THP_DISABLE}, 0},
                                  RemoteCall{SYS_brk, {0}, 0}};
  FERMATA_TRY(remote.run(calls));
  if (calls[0].result != 1) {
    return {Code::kCannotHold,
            fmt::format("{} has denied that its memory is kept (PR_SET_DUMPABLE 0): it cannot be "
                        "held",
                        process.describe())};
  }
  int subreaper = 0;
  FERMATA_TRY(remote.get(args, subreaper));
  out.set_child_subreaper(subreaper != 0);
  out.mutable_mm()->set_thp_disabled(calls[2].result == 1);
  out.mutable_mm()->set_brk(static_cast<uint64_t>(calls[3].result));
  return Status::ok();
}

prctl_mm_map layout_of(const image::MmLayout& mm) {
  prctl_mm_map map{};
  map.start_code = mm.start_code();
  map.end_code = mm.end_code();
  map.start_data = mm.start_data();
  map.end_data = mm.end_data();
  map.start_brk = mm.start_brk();
  map.brk = mm.brk();
  map.start_stack = mm.start_stack();
  map.arg_start = mm.arg_start();
  map.arg_end = mm.arg_end();
  map.env_start = mm.env_start();
  map.env_end = mm.env_end();
  return map;
}

Status rebuild_layout(RebuildRemote& remote, const image::MmLayout& mm) {
  FERMATA_ASSIGN_STATUS(const uint64_t path, remote.put_string(mm.exe()));
  constexpr auto kCwd = static_cast<uint64_t>(AT_FDCWD);
  FERMATA_ASSIGN_STATUS(const long exe,
                        remote.call(fmt::format("opening the executable {}", mm.exe()), SYS_openat,
                                    {kCwd, path, O_RDONLY | O_CLOEXEC}));
  const uint64_t args = remote.argument_address();
  constexpr size_t kAuxvAt = 4096;
  prctl_mm_map map = layout_of(mm);
  map.exe_fd = static_cast<uint32_t>(exe);
  map.auxv = reinterpret_cast<__u64*>(args + kAuxvAt);
  map.auxv_size = static_cast<uint32_t>(mm.auxv().size());
  FERMATA_TRY(remote.write_memory(args + kAuxvAt, std::as_bytes(std::span(mm.auxv()))));
  FERMATA_TRY(remote.put(args, map));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long set,
      remote.call("PR_SET_MM_MAP", SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, args, sizeof map, 0}));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long closed,
                        remote.call("close", SYS_close, {static_cast<uint64_t>(exe)}));
  return Status::ok();
}

// The process asks and sets its own limits: for another user's, prlimit(2) wants CAP_SYS_RESOURCE,
// which an agent in a container lacks.
Result<std::array<rlimit64, kLimits>> own_limits(Remote& remote) {
  const uint64_t args = remote.argument_address();
  std::array<RemoteCall, kLimits> calls{};
  for (size_t i = 0; i < calls.size(); ++i) {
    calls[i] = {SYS_prlimit64, {0, i, 0, args + i * sizeof(rlimit64)}, 0};
  }
  FERMATA_TRY_RESULT(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0) {
      return errno_failure(static_cast<int>(-one.result),
                           fmt::format("reading limit {}", one.args[1]));
    }
  }
  std::array<rlimit64, kLimits> limits{};
  FERMATA_TRY_RESULT(remote.get(args, limits));
  return limits;
}

// A limit of an image can only lower what the pod has: the image is not trusted to raise anything.
Status rebuild_limits(RebuildRemote& remote, const image::Process& process) {
  FERMATA_ASSIGN_STATUS(const auto now, own_limits(remote));
  std::array<rlimit64, kLimits> want = now;
  for (const image::ResourceLimit& limit : process.limits()) {
    const auto resource = static_cast<size_t>(limit.resource());
    if (resource >= want.size()) continue;
    want[resource] = {std::min(limit.soft(), now[resource].rlim_max),
                      std::min(limit.hard(), now[resource].rlim_max)};
  }
  const uint64_t args = remote.argument_address();
  FERMATA_TRY(remote.put(args, want));
  std::array<RemoteCall, kLimits> calls{};
  for (size_t i = 0; i < calls.size(); ++i) {
    calls[i] = {SYS_prlimit64, {0, i, args + i * sizeof(rlimit64), 0}, 0};
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0) {
      log_warning(fmt::format("process {}: limit {} stays as it is: {}", process.vpid(),
                              one.args[1], std::strerror(static_cast<int>(-one.result))));
    }
  }
  return Status::ok();
}

void write_proc(pid_t pid, const char* file, const std::string& value) {
  const UniqueFd fd(::open(fmt::format("/proc/{}/{}", pid, file).c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || ::write(fd.get(), value.data(), value.size()) < 0) {
    log_debug(fmt::format("/proc/{}/{} stays as it is: {}", pid, file, std::strerror(errno)));
  }
}

}  // namespace

Status capture_process_state(const HeldProcess& process, CaptureRemote& remote,
                             image::Process& out) {
  FERMATA_TRY(capture_layout(process, *out.mutable_mm()));
  FERMATA_TRY(capture_switches(process, remote, out));
  FERMATA_ASSIGN_STATUS(std::string cwd, read_link(fmt::format("/proc/{}/cwd", process.pid)));
  if (cwd.ends_with(" (deleted)")) {
    return {Code::kCannotHold,
            fmt::format("{}: its working directory {} was deleted", process.describe(), cwd)};
  }
  out.set_cwd(std::move(cwd));
  out.set_umask(process.leader().status.umask);
  const Result<std::array<rlimit64, kLimits>> limits = own_limits(remote);
  if (!limits) return limits.error().within(process.describe());
  for (size_t i = 0; i < limits->size(); ++i) {
    image::ResourceLimit& record = *out.add_limits();
    record.set_resource(static_cast<int>(i));
    record.set_soft((*limits)[i].rlim_cur);
    record.set_hard((*limits)[i].rlim_max);
  }
  if (const Result<std::string> text =
          read_file(fmt::format("/proc/{}/oom_score_adj", process.pid))) {
    out.set_oom_score_adj(std::atoi(text->c_str()));
  }
  if (const Result<std::string> text =
          read_file(fmt::format("/proc/{}/coredump_filter", process.pid))) {
    out.set_coredump_filter(static_cast<uint32_t>(std::strtoul(text->c_str(), nullptr, 16)));
  }
  return Status::ok();
}

Status rebuild_process_state(RebuildRemote& remote, const image::Process& process) {
  FERMATA_TRY(rebuild_layout(remote, process.mm()));
  FERMATA_ASSIGN_STATUS(const uint64_t path, remote.put_string(process.cwd()));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long moved,
                        remote.call(fmt::format("entering the working directory {}", process.cwd()),
                                    SYS_chdir, {path}));
  std::vector<RemoteCall> calls{{SYS_umask, {process.umask()}, 0}};
  if (process.child_subreaper()) calls.push_back({SYS_prctl, {PR_SET_CHILD_SUBREAPER, 1}, 0});
  if (process.mm().thp_disabled()) calls.push_back({SYS_prctl, {PR_SET_THP_DISABLE, 1}, 0});
  FERMATA_TRY(remote.run(calls));
  FERMATA_TRY(rebuild_limits(remote, process));
  // An image can make a process more likely to be ended, not less.
  int least = 0;
  if (const Result<std::string> text =
          read_file(fmt::format("/proc/{}/oom_score_adj", remote.pid()))) {
    least = std::atoi(text->c_str());
  }
  write_proc(remote.pid(), "oom_score_adj",
             fmt::format("{}", std::max(process.oom_score_adj(), least)));
  write_proc(remote.pid(), "coredump_filter", fmt::format("{:#x}", process.coredump_filter()));
  return Status::ok();
}

Status rebuild_dumpable(RebuildRemote& remote) {
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                        remote.call("PR_SET_DUMPABLE", SYS_prctl, {PR_SET_DUMPABLE, 1}));
  return Status::ok();
}

}  // namespace fermata::engine
