// The streams of the job. Which open files they are is found by the engine's core (they are
// what PID 1 holds); at a restart they are those of whoever restarts it.
#include <fcntl.h>
#include <fmt/format.h>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

class StdioKind : public FileKind {
 public:
  bool matches(const FileProbe&) const override { return false; }

  Status capture(const FileProbe& probe, CaptureContext&, image::File&) override {
    return {Code::kInternal, fmt::format("{} was taken for a stream of the job", probe.describe())};
  }

  bool owns(const image::File& file) const override { return file.has_stdio(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const int stream = file.stdio().stream();
    if (context.stdio_fd(stream) < 0) {
      return failure(Code::kDamaged,
                     fmt::format("{}: there is no stream {}", holder_of(file), stream));
    }
    // The same open file description, flags included: it is shared with who called `fermata
    // restart`.
    UniqueFd fd(::fcntl(context.stdio_fd(stream), F_DUPFD_CLOEXEC, 0));
    if (!fd) return errno_failure(errno, fmt::format("duplicating stream {}", stream));
    return fd;
  }
};

}  // namespace

std::unique_ptr<FileKind> make_stdio_kind() { return std::make_unique<StdioKind>(); }

}  // namespace fermata::engine
