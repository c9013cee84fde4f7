// signalfd(2): a mask. The signals themselves belong to the processes.
#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

class SignalfdKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return probe.link == "anon_inode:[signalfd]";
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    FERMATA_ASSIGN_STATUS(const uint64_t mask, fdinfo_number(probe, "sigmask", 16));
    out.mutable_signal()->set_mask(mask);
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_signal(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext&) override {
    const uint64_t mask = file.signal().mask();
    UniqueFd fd(static_cast<int>(::syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_CLOEXEC)));
    if (!fd) return errno_failure(errno, fmt::format("{}: signalfd", holder_of(file)));
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }
};

}  // namespace

std::unique_ptr<FileKind> make_signalfd_kind() { return std::make_unique<SignalfdKind>(); }

}  // namespace fermata::engine
