// pidfd_open(2) of a process of the pod.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

constexpr uint32_t kPidfdThread = O_EXCL;  // PIDFD_THREAD, <linux/pidfd.h>
constexpr uint32_t kPidfdNonblock = O_NONBLOCK;

class PidfdKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override { return probe.link == "anon_inode:[pidfd]"; }

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    const auto text = fdinfo_field(probe.fdinfo, "Pid");
    long pid = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), pid);
    if (pid <= 0) {
      return refuse(probe, "the process behind this pidfd has ended and was waited for; close it");
    }
    const int vpid = context.vpid_of(static_cast<pid_t>(pid));
    if (vpid == 0) {
      return refuse(probe,
                    fmt::format("this pidfd is of process {} outside the job; close it", pid));
    }
    if ((out.flags() & kPidfdThread) != 0) {
      return refuse(probe, "pidfds of single threads cannot be held; use one of the process");
    }
    out.mutable_pid()->set_vpid(vpid);
    out.mutable_pid()->set_flags(out.flags() & kPidfdNonblock);
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_pid(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    // PIDs are those of the pod's namespace, in which this process is.
    FERMATA_ASSIGN(Remote * remote, context.remote(file.creator()));
    FERMATA_ASSIGN(
        const long fd,
        remote->call(
            fmt::format("pidfd_open of process {}", file.pid().vpid()), SYS_pidfd_open,
            {static_cast<uint64_t>(file.pid().vpid()), file.pid().flags() & kPidfdNonblock}));
    FERMATA_ASSIGN(UniqueFd ours, remote->take_fd(static_cast<int>(fd)));
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   remote->call("close", SYS_close, {static_cast<uint64_t>(fd)}));
    return ours;
  }
};

}  // namespace

std::unique_ptr<FileKind> make_pidfd_kind() { return std::make_unique<PidfdKind>(); }

}  // namespace fermata::engine
