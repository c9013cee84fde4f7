// Pipes and FIFOs: capacity, unread bytes (packet by packet in O_DIRECT mode), flags of each end.
//
// The bytes are read without being consumed: tee(2) duplicates them into a pipe of ours. Every open
// file description of a pipe has a record with the same pipe_id; the first one carries the bytes.
// At a rebuild the first record makes the pipe, and an end of our own for both directions keeps it
// whole until all descriptions are there; what has no description in the image (all writers gone:
// end of file; all readers gone: SIGPIPE) is gone again when those close.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <climits>
#include <map>
#include <optional>
#include <vector>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

// fs/pipe.c: F_SETPIPE_SZ takes no more than 2^31; ours are far smaller.
constexpr uint32_t kLargestCapacity = 1U << 30;

bool reads(uint32_t flags) { return (flags & O_ACCMODE) != O_WRONLY; }
bool writes(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

struct PipePair {
  UniqueFd read_end;
  UniqueFd write_end;
};

Result<PipePair> make_pipe(uint32_t capacity, std::string_view what) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure(errno, fmt::format("{}: pipe", what));
  PipePair pair{UniqueFd(ends[0]), UniqueFd(ends[1])};
  if (::fcntl(pair.read_end.get(), F_GETPIPE_SZ) != static_cast<int>(capacity) &&
      ::fcntl(pair.write_end.get(), F_SETPIPE_SZ, capacity) < 0) {
    return errno_failure(errno, fmt::format("{}: a pipe of {} bytes (/proc/sys/fs/pipe-max-size, "
                                            "pipe-user-pages-soft)",
                                            what, capacity));
  }
  return pair;
}

class PipeKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return S_ISFIFO(probe.status.st_mode) && (::fcntl(probe.dup.get(), F_GETFL) & O_PATH) == 0;
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    image::PipeFile& pipe = *out.mutable_pipe();
    const auto key = std::make_pair(probe.status.st_dev, probe.status.st_ino);
    const auto [place, first] = seen_.try_emplace(key, Seen{});
    Seen& seen = place->second;
    if (first) {
      seen.id = seen_.size();
      seen.text = probe.describe();
      FERMATA_TRY(capture_contents(probe, pipe));
    }
    pipe.set_pipe_id(seen.id);
    if (probe.link.starts_with('/') && !probe.link.ends_with(" (deleted)")) {
      pipe.set_path(probe.link);
    }
    const int capacity = ::fcntl(probe.dup.get(), F_GETPIPE_SZ);
    if (capacity < 0) return errno_status(errno, fmt::format("{}: F_GETPIPE_SZ", probe.describe()));
    pipe.set_capacity(static_cast<uint32_t>(capacity));

    const uint32_t flags = out.flags();
    seen.read_here |= reads(flags);
    seen.write_here |= writes(flags);
    // poll(2): POLLHUP on a read end without a writer, POLLERR on a write end without a reader.
    pollfd state{probe.dup.get(), POLLOUT, 0};
    if (::poll(&state, 1, 0) < 0) return errno_status(errno, probe.describe());
    if (reads(flags)) seen.no_writer = (state.revents & POLLHUP) != 0;
    if (writes(flags)) seen.no_reader = (state.revents & POLLERR) != 0;
    return Status::ok();
  }

  Status finish_capture(CaptureContext&, image::PodObjects&) override {
    std::string all;
    for (const auto& [key, seen] : seen_) {
      const bool lacks_writer = !seen.write_here && !seen.no_writer;
      const bool lacks_reader = !seen.read_here && !seen.no_reader;
      if (!lacks_writer && !lacks_reader) continue;
      if (!all.empty()) all += '\n';
      all += fmt::format(
          "{}: the other end of this pipe is held by a process outside the job; "
          "start both inside it, or use a file",
          seen.text);
    }
    return all.empty() ? Status::ok() : Status(Code::kCannotHold, all);
  }

  bool owns(const image::File& file) const override { return file.has_pipe(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const image::PipeFile& pipe = file.pipe();
    if (pipe.capacity() == 0 || pipe.capacity() > kLargestCapacity) {
      return failure(Code::kDamaged, fmt::format("{}: a pipe of {} bytes cannot be",
                                                 holder_of(file), pipe.capacity()));
    }
    auto made = made_.find(pipe.pipe_id());
    if (made == made_.end()) {
      FERMATA_ASSIGN(Made fresh,
                     pipe.path().empty() ? make_anonymous(file) : open_named(file, context));
      made = made_.emplace(pipe.pipe_id(), std::move(fresh)).first;
    }
    FERMATA_TRY_RESULT(refill(file, made->second));
    FERMATA_ASSIGN(UniqueFd end, take_end(file, made->second, context));
    FERMATA_TRY_RESULT(set_status_flags(end.get(), file.flags()));
    return end;
  }

  Status connect(const image::File& file, RebuildContext&) override {
    made_.erase(file.pipe().pipe_id());
    return Status::ok();
  }

 private:
  struct Seen {
    uint64_t id = 0;
    std::string text;
    bool read_here = false;
    bool write_here = false;
    bool no_writer = false;
    bool no_reader = false;
  };

  // A rebuilt pipe while its descriptions are made: ours to keep it open, and the two of pipe2(2)
  // for the first description in each direction.
  struct Made {
    PipePair keep;
    UniqueFd first_reader;
    UniqueFd first_writer;
  };

  Status capture_contents(const FileProbe& probe, image::PipeFile& pipe) {
    const int flags = ::fcntl(probe.dup.get(), F_GETFL);
    const int capacity = ::fcntl(probe.dup.get(), F_GETPIPE_SZ);
    if (flags < 0 || capacity < 0) return errno_status(errno, probe.describe());
    if ((flags & O_DIRECT) != 0) pipe.set_packets(true);
    UniqueFd reader;
    int source = probe.dup.get();
    if (!reads(static_cast<uint32_t>(flags))) {
      FERMATA_ASSIGN_STATUS(reader, reopen(source, O_RDONLY | O_NONBLOCK));
      source = reader.get();
    }
    FERMATA_ASSIGN_STATUS(const PipePair copy,
                          make_pipe(static_cast<uint32_t>(capacity), probe.describe()));
    const ssize_t bytes = ::tee(source, copy.write_end.get(), INT_MAX, SPLICE_F_NONBLOCK);
    if (bytes < 0 && errno != EAGAIN) {
      return errno_status(errno, fmt::format("{}: tee", probe.describe()));
    }
    // A read ends at the end of a packet (pipe(7), O_DIRECT), so that each is a chunk of its own.
    std::string buffer(static_cast<size_t>(capacity), '\0');
    for (ssize_t left = bytes; left > 0;) {
      const ssize_t n = ::read(copy.read_end.get(), buffer.data(), buffer.size());
      if (n <= 0)
        return errno_status(n == 0 ? EIO : errno, fmt::format("{}: read", probe.describe()));
      pipe.add_chunks(buffer.data(), static_cast<size_t>(n));
      left -= n;
    }
    if (pipe.chunks_size() > 1) pipe.set_packets(true);
    return Status::ok();
  }

  static Result<Made> make_anonymous(const image::File& file) {
    FERMATA_ASSIGN(PipePair pair, make_pipe(file.pipe().capacity(), holder_of(file)));
    Made made;
    FERMATA_ASSIGN(made.keep.read_end, reopen(pair.read_end.get(), O_RDONLY | O_NONBLOCK));
    FERMATA_ASSIGN(made.keep.write_end, reopen(pair.read_end.get(), O_WRONLY | O_NONBLOCK));
    made.first_reader = std::move(pair.read_end);
    made.first_writer = std::move(pair.write_end);
    return made;
  }

  static Result<Made> open_named(const image::File& file, RebuildContext& context) {
    const image::PipeFile& pipe = file.pipe();
    // Read-write does not wait for the other end (fifo(7)).
    Result<UniqueFd> both =
        context.open_in_pod(file.creator(), pipe.path(), O_RDWR | O_NONBLOCK, 0);
    if (!both) {
      return failure(both.error().code(),
                     fmt::format("{}: cannot open the FIFO '{}' again: {}", holder_of(file),
                                 pipe.path(), both.error().message()),
                     both.error().error_number());
    }
    if (::fcntl(both->get(), F_SETPIPE_SZ, pipe.capacity()) < 0) {
      return errno_failure(errno, fmt::format("{}: '{}' is no FIFO of {} bytes", holder_of(file),
                                              pipe.path(), pipe.capacity()));
    }
    Made made;
    FERMATA_ASSIGN(made.keep.write_end, reopen(both->get(), O_WRONLY | O_NONBLOCK));
    made.keep.read_end = *std::move(both);
    return made;
  }

  static Status refill(const image::File& file, const Made& made) {
    const image::PipeFile& pipe = file.pipe();
    if (pipe.chunks_size() == 0) return Status::ok();
    const int out = made.keep.write_end.get();
    FERMATA_TRY(set_status_flags(out, O_NONBLOCK | (pipe.packets() ? O_DIRECT : 0U)));
    for (const std::string& chunk : pipe.chunks()) {
      const ssize_t n = ::write(out, chunk.data(), chunk.size());
      if (n != static_cast<ssize_t>(chunk.size())) {
        return {Code::kDamaged, fmt::format("{}: a pipe of {} bytes does not hold what was unread",
                                            holder_of(file), pipe.capacity())};
      }
    }
    return Status::ok();
  }

  static Result<UniqueFd> take_end(const image::File& file, Made& made, RebuildContext& context) {
    const uint32_t flags = file.flags();
    const auto access = static_cast<int>(flags & O_ACCMODE);
    if (!file.pipe().path().empty()) {
      return context.open_in_pod(file.creator(), file.pipe().path(), access | O_NONBLOCK, 0);
    }
    if (!writes(flags) && made.first_reader) return std::move(made.first_reader);
    if (!reads(flags) && made.first_writer) return std::move(made.first_writer);
    return reopen(made.keep.read_end.get(), access | O_NONBLOCK);
  }

  std::map<std::pair<dev_t, ino_t>, Seen> seen_;
  std::map<uint64_t, Made> made_;
};

}  // namespace

std::unique_ptr<FileKind> make_pipe_kind() { return std::make_unique<PipeKind>(); }

}  // namespace fermata::engine
