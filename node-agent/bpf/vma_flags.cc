#include "node-agent/bpf/vma_flags.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "bpf/vma_flags.skel.h"
#include "common/unique_fd.h"
#include "node-agent/bpf/bpf_words.h"

namespace fermata {
namespace {

struct ProgramDeleter {
  void operator()(vma_flags_bpf* program) const { vma_flags_bpf__destroy(program); }
};
struct LinkDeleter {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

/// A map like no other process has.
class OwnMap {
 public:
  OwnMap() : at_(::mmap(nullptr, kLength, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {}
  OwnMap(const OwnMap&) = delete;
  OwnMap& operator=(const OwnMap&) = delete;
  ~OwnMap() {
    if (at_ != MAP_FAILED) ::munmap(at_, kLength);
  }
  bool is(const VmaFlags& map) const {
    return map.start == reinterpret_cast<uint64_t>(at_) && map.end == map.start + kLength;
  }

 private:
  static constexpr size_t kLength = 37 * 4096;
  void* at_;
};

class Iterator final : public VmaFlagReader {
 public:
  explicit Iterator(vma_flags_bpf* program) : program_(program) {}

  Result<std::vector<VmaFlags>> read(pid_t pid) const override {
    bpf_iter_link_info of{};
    of.task.tid = static_cast<__u32>(pid);
    bpf_iter_attach_opts options{};
    options.sz = sizeof options;
    options.link_info = &of;
    options.link_info_len = sizeof of;
    const std::unique_ptr<bpf_link, LinkDeleter> link(
        bpf_program__attach_iter(program_->progs.fermata_vma_flags, &options));
    if (!link) return failed(pid);
    const UniqueFd maps(bpf_iter_create(bpf_link__fd(link.get())));
    if (!maps) return failed(pid);

    std::vector<VmaFlags> found;
    // As much as the kernel gives at once.
    std::array<VmaFlags, 8 * 4096 / sizeof(VmaFlags)> some{};
    size_t bytes = 0;  // of `some`: the beginning of a record
    while (true) {
      const ssize_t n = ::read(maps.get(), reinterpret_cast<std::byte*>(some.data()) + bytes,
                               sizeof some - bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return failed(pid);
      if (n == 0) return found;
      bytes += static_cast<size_t>(n);
      const size_t whole = bytes / sizeof(VmaFlags);
      for (size_t i = 0; i < whole; ++i) {
        // Once it was read in more than one piece it begins anew behind its end (Linux 6.18).
        if (!found.empty() && some[i].start < found.back().end) return found;
        found.push_back(some[i]);
      }
      bytes -= whole * sizeof(VmaFlags);
      if (bytes > 0) some.front() = some[whole];
    }
  }

 private:
  static Failure failed(pid_t pid) {
    return errno_failure(errno, fmt::format("reading the flags of the maps of process {}", pid));
  }

  std::unique_ptr<vma_flags_bpf, ProgramDeleter> program_;
};

}  // namespace

Result<std::unique_ptr<VmaFlagReader>> VmaFlagReader::load() {
  keep_bpf_words();
  vma_flags_bpf* program = vma_flags_bpf__open_and_load();
  if (program == nullptr) return errno_failure(errno, "loading the iterator over maps");
  auto iterator = std::make_unique<Iterator>(program);
  // Before Linux 6.1 it goes through all processes, whichever is named.
  const OwnMap own;
  FERMATA_ASSIGN(const std::vector<VmaFlags> found, iterator->read(::getpid()));
  if (std::any_of(found.begin(), found.end(), [&](const VmaFlags& map) { return own.is(map); })) {
    return iterator;
  }
  return failure(Code::kUnsupported, "this kernel iterates over no single process's maps");
}

}  // namespace fermata
