// What no other kind takes: refused, with what it is and what to do about it.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <array>
#include <string_view>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

struct Row {
  std::string_view prefix;  // of the link in /proc/PID/fd
  std::string_view why;
};

constexpr std::array kByLink{
    Row{"anon_inode:[io_uring]",
        "io_uring cannot be held; start the program without it (UV_USE_IO_URING=0 for libuv, "
        "PMIX and Open MPI need none; or sysctl kernel.io_uring_disabled=2)"},
    Row{"anon_inode:[userfaultfd]",
        "userfaultfd cannot be held: the program manages its own page faults; run it without"},
    Row{"anon_inode:inotify",
        "inotify watches cannot be held; let the program poll, or close it before a checkpoint"},
    Row{"anon_inode:[fanotify]", "fanotify cannot be held; close it before a checkpoint"},
    Row{"anon_inode:[perf_event]",
        "performance counters of the kernel cannot be held; run the program without profiler"},
    Row{"anon_inode:bpf", "BPF objects cannot be held; close it before a checkpoint"},
    Row{"anon_inode:btf", "BPF objects cannot be held; close it before a checkpoint"},
    Row{"anon_inode:[fscontext]", "mount contexts cannot be held; close it before a checkpoint"},
    Row{"anon_inode:seccomp notify", "seccomp listeners cannot be held; run it without"},
    Row{"anon_inode:landlock", "Landlock rule sets cannot be held; close it after use"},
    Row{"anon_inode:kvm", "virtual machines cannot be held"},
    Row{"anon_inode:sync_file", "GPU objects cannot be held; run the program without GPU"},
    Row{"anon_inode:[infinibandevent]",
        "InfiniBand cannot be held; use TCP (OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp)"},
    Row{"anon_inode:[uverbs]",
        "InfiniBand cannot be held; use TCP (OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp)"},
    Row{"/dev/infiniband",
        "InfiniBand cannot be held; use TCP (OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp)"},
    Row{"/dmabuf:", "GPU buffers cannot be held; run the program without GPU"},
    Row{"/dev/dri", "GPUs cannot be held; run the program without GPU"},
    Row{"/dev/nvidia", "GPUs cannot be held; run the program without GPU"},
    Row{"/dev/kfd", "GPUs cannot be held; run the program without GPU"},
    Row{"/dev/pts/", "a terminal that is not the job's own cannot be held; close it"},
    Row{"/dev/ptmx", "a terminal that is not the job's own cannot be held; close it"},
    Row{"/dev/tty", "a terminal that is not the job's own cannot be held; close it"},
    Row{"mnt:[", "an open namespace cannot be held; close it"},
    Row{"net:[", "an open namespace cannot be held; close it"},
    Row{"pid:[", "an open namespace cannot be held; close it"},
};

std::string_view family_name(int family) {
  switch (family) {
    case AF_PACKET:
      return "packet";
    case AF_VSOCK:
      return "virtual machine (vsock)";
    case AF_ALG:
      return "kernel cryptography (AF_ALG)";
    case AF_XDP:
      return "AF_XDP";
    case AF_INET:
    case AF_INET6:
      return "raw IP, or IP of a protocol other than TCP and UDP";
    case AF_NETLINK:
      return "netlink";
    default:
      return "unusual";
  }
}

class RefusedKind : public FileKind {
 public:
  bool matches(const FileProbe&) const override { return true; }

  Status capture(const FileProbe& probe, CaptureContext&, image::File&) override {
    for (const Row& row : kByLink) {
      if (probe.link.starts_with(row.prefix)) return refuse(probe, row.why);
    }
    if (S_ISSOCK(probe.status.st_mode)) {
      int family = -1;
      socklen_t size = sizeof family;
      ::getsockopt(probe.dup.get(), SOL_SOCKET, SO_DOMAIN, &family, &size);
      return refuse(probe, fmt::format("sockets of this kind cannot be held: {} (family {}); close "
                                       "it before a checkpoint",
                                       family_name(family), family));
    }
    if (S_ISCHR(probe.status.st_mode) || S_ISBLK(probe.status.st_mode)) {
      return refuse(probe,
                    fmt::format("the device {}:{} cannot be held; close it before a checkpoint",
                                major(probe.status.st_rdev), minor(probe.status.st_rdev)));
    }
    return refuse(probe,
                  "Fermata does not know how to hold this kind of file; close it before a "
                  "checkpoint");
  }

  bool owns(const image::File&) const override { return false; }

  Result<UniqueFd> create(const image::File& file, RebuildContext&) override {
    return failure(Code::kDamaged, fmt::format("{}: a file of no known kind", holder_of(file)));
  }
};

}  // namespace

std::unique_ptr<FileKind> make_refused_kind() { return std::make_unique<RefusedKind>(); }

}  // namespace fermata::engine
