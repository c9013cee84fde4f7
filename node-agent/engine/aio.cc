#include "node-agent/engine/aio.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace fermata::engine {
namespace {

// Head of the ring (fs/aio.c, struct aio_ring), followed by the events.
struct RingHeader {
  uint32_t id;
  uint32_t slots;
  uint32_t head;
  uint32_t tail;
  uint32_t magic;
  uint32_t compat_features;
  uint32_t incompat_features;
  uint32_t header_length;
};
static_assert(sizeof(RingHeader) == sizeof(io_event));

constexpr uint32_t kMagic = 0xa10a10a1;
constexpr uint64_t kLongestRing = 1 << 26;
constexpr uint64_t kPageSizeOfRing = 4096;

// A ring as read from the process.
class Ring {
 public:
  static Result<Ring> read(Remote& process, uint64_t address, uint64_t length) {
    Ring ring;
    ring.address_ = address;
    ring.bytes_.resize(length);
    FERMATA_TRY_RESULT(process.read_memory(address, ring.bytes_));
    const RingHeader& header = ring.header();
    if (header.magic != kMagic || header.slots != slots_in(length) || header.head >= header.slots ||
        header.tail >= header.slots) {
      return failure(
          Code::kCannotHold,
          fmt::format("process {}: the AIO context at {:#x} is damaged, or of a form that "
                      "is not known",
                      process.pid(), address));
    }
    return ring;
  }
  static uint32_t slots_in(uint64_t length) {
    return static_cast<uint32_t>((length - sizeof(RingHeader)) / sizeof(io_event));
  }

  RingHeader& header() { return *reinterpret_cast<RingHeader*>(bytes_.data()); }
  io_event& event(uint32_t slot) {
    return reinterpret_cast<io_event*>(bytes_.data() + sizeof(RingHeader))[slot % header().slots];
  }
  /// Everything but id and number of slots, which are the kernel's.
  Status write_back(Remote& process) const {
    constexpr size_t kFrom = offsetof(RingHeader, head);
    return process.write_memory(address_ + kFrom, std::span(bytes_).subspan(kFrom));
  }

 private:
  uint64_t address_ = 0;
  std::vector<std::byte> bytes_;
};

// What the work needs in the process, gone with this object: a mapping with a request that does
// nothing (an empty read of /dev/null) and pointers to it, and the descriptor of /dev/null.
class Workshop {
 public:
  static Result<Workshop> open(Remote& process, uint32_t slots) {
    Workshop shop(process);
    shop.length_ = kPointers + (uint64_t{slots} * sizeof(uint64_t) + 4095) / 4096 * 4096;
    FERMATA_ASSIGN(const long area, process.call("memory for AIO", SYS_mmap,
                                                 {0, shop.length_, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
    shop.area_ = static_cast<uint64_t>(area);
    FERMATA_ASSIGN(const uint64_t path, process.put_string("/dev/null"));
    FERMATA_ASSIGN(const long null,
                   process.call("open of /dev/null", SYS_openat,
                                {static_cast<uint64_t>(AT_FDCWD), path, O_RDONLY | O_CLOEXEC, 0}));
    shop.null_ = null;
    iocb nothing{};
    nothing.aio_lio_opcode = IOCB_CMD_PREAD;
    nothing.aio_fildes = static_cast<uint32_t>(null);
    nothing.aio_buf = shop.area_ + kSpare;
    FERMATA_TRY_RESULT(process.put(shop.area_, nothing));
    const std::vector<uint64_t> pointers(slots, shop.area_);
    FERMATA_TRY_RESULT(
        process.write_memory(shop.area_ + kPointers, std::as_bytes(std::span(pointers))));
    return shop;
  }
  Workshop(Workshop&& other) noexcept
      : process_(other.process_),
        area_(std::exchange(other.area_, 0)),
        length_(other.length_),
        null_(std::exchange(other.null_, -1)) {}
  Workshop& operator=(Workshop&&) = delete;
  ~Workshop() {
    if (null_ >= 0) (void)process_->call("close", SYS_close, {static_cast<uint64_t>(null_)});
    if (area_ != 0) (void)process_->call("munmap", SYS_munmap, {area_, length_});
  }

  uint64_t pointers() const { return area_ + kPointers; }
  uint64_t spare() const { return area_ + kSpare; }

 private:
  static constexpr uint64_t kSpare = 1024;
  static constexpr uint64_t kPointers = 4096;
  explicit Workshop(Remote& process) : process_(&process) {}

  Remote* process_;
  uint64_t area_ = 0;
  uint64_t length_ = 0;
  long null_ = -1;
};

// A new, empty context whose ring is as long as wanted; its address.
Result<uint64_t> set_up(Remote& process, uint64_t length) {
  // The kernel makes twice as many slots as asked for, and two (fs/aio.c, ioctx_alloc,
  // aio_setup_ring).
  const uint64_t wanted = (Ring::slots_in(length) - 2) / 2;
  const uint64_t place = process.argument_address();
  FERMATA_TRY_RESULT(process.put(place, uint64_t{0}));
  FERMATA_ASSIGN([[maybe_unused]] const long made,
                 process.call("io_setup (is /proc/sys/fs/aio-max-nr used up?)", SYS_io_setup,
                              {wanted, place}));
  uint64_t address = 0;
  FERMATA_TRY_RESULT(process.get(place, address));
  RingHeader header{};
  FERMATA_TRY_RESULT(process.get(address, header));
  if (header.slots == Ring::slots_in(length)) return address;
  (void)process.call("io_destroy", SYS_io_destroy, {address});
  return failure(
      Code::kUnsupported,
      fmt::format("this machine makes AIO contexts of {} slots where {} are needed (it has "
                  "more processors); restart on one with as many as before",
                  header.slots, Ring::slots_in(length)));
}

// Brings the kernel's own tail from `now` to `want` by requests that do nothing. Each leaves an
// event behind, so the ring has to be written back afterwards.
Status advance_tail(Remote& process, uint64_t context, uint64_t pointers, uint32_t now,
                    uint32_t want) {
  while (now < want) {
    // The head says that all before it was read, so that the kernel has requests to give.
    FERMATA_TRY(process.put(context + offsetof(RingHeader, head), now));
    FERMATA_ASSIGN_STATUS(
        const long done, process.call("io_submit", SYS_io_submit, {context, want - now, pointers}));
    if (done == 0) return {Code::kInternal, "an AIO context takes no requests"};
    now += static_cast<uint32_t>(done);
  }
  return Status::ok();
}

// IOCB_CMD_POLL requests come back cancelled, with no events: out of the ring again (what is before
// them moves up, the tail is the kernel's), to be submitted anew. Returns their control blocks.
Result<std::vector<uint64_t>> take_out_cancelled(Remote& process, Ring& ring) {
  std::vector<uint64_t> cancelled;
  RingHeader& header = ring.header();
  const uint32_t slots = header.slots;
  for (uint32_t slot = header.head; slot != header.tail; slot = (slot + 1) % slots) {
    const io_event event = ring.event(slot);
    iocb block{};
    if (event.res != 0 || !process.get(event.obj, block) || block.aio_lio_opcode != IOCB_CMD_POLL) {
      continue;
    }
    cancelled.push_back(event.obj);
    for (uint32_t at = slot; at != header.head; at = (at + slots - 1) % slots) {
      ring.event(at) = ring.event(at + slots - 1);
    }
    header.head = (header.head + 1) % slots;
  }
  return cancelled;
}

Status submit_again(Remote& process, uint64_t context, std::span<const uint64_t> blocks) {
  for (const uint64_t block : blocks) {
    FERMATA_TRY(process.put(process.argument_address(), block));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long done,
                          process.call("io_submit of a poll request", SYS_io_submit,
                                       {context, 1, process.argument_address()}));
  }
  return Status::ok();
}

// A pipe in the process that holds the pages of a ring beyond its end (vmsplice(2)). Closed with
// this object.
class RingPipe {
 public:
  static Result<RingPipe> hold(Remote& process, const AioRing& ring) {
    RingPipe pipe(process);
    const uint64_t place = process.argument_address();
    FERMATA_ASSIGN([[maybe_unused]] const long made,
                   process.call("pipe", SYS_pipe2, {place, O_CLOEXEC | O_NONBLOCK}));
    FERMATA_TRY_RESULT(process.get(place, pipe.ends_));
    FERMATA_ASSIGN([[maybe_unused]] const long size,
                   process.call("a pipe as large as an AIO ring (/proc/sys/fs/pipe-max-size)",
                                SYS_fcntl, {pipe.end(1), F_SETPIPE_SZ, ring.length}));
    FERMATA_TRY_RESULT(process.put(place, std::array<uint64_t, 2>{ring.start, ring.length}));
    FERMATA_ASSIGN(const long held, process.call("vmsplice", SYS_vmsplice,
                                                 {pipe.end(1), place, 1, SPLICE_F_NONBLOCK}));
    if (held == static_cast<long>(ring.length)) return pipe;
    return failure(Code::kCannotHold,
                   fmt::format("process {}: a pipe holds {} of the {} bytes of an AIO ring",
                               process.pid(), held, ring.length));
  }
  RingPipe(RingPipe&& other) noexcept
      : process_(other.process_), ends_(std::exchange(other.ends_, {-1, -1})) {}
  RingPipe& operator=(RingPipe&&) = delete;
  ~RingPipe() {
    if (ends_[0] < 0) return;
    std::array<RemoteCall, 2> calls{RemoteCall{SYS_close, {end(0)}, 0},
                                    RemoteCall{SYS_close, {end(1)}, 0}};
    (void)process_->run(calls);
  }

  uint64_t read_end() const { return end(0); }

 private:
  explicit RingPipe(Remote& process) : process_(&process) {}
  uint64_t end(size_t which) const { return static_cast<uint64_t>(ends_[which]); }

  Remote* process_;
  std::array<int, 2> ends_{-1, -1};
};

// The batch that must not be torn: the old context ends, the new one takes its place, its kernel
// tail and its contents become those of the old one. The number of requests to submit is the old
// tail, which only the ring knows once everything in it is complete: one call reads it into the
// argument of the next.
Status replace(Remote& process, const AioRing& ring, uint64_t fresh, const Workshop& shop,
               const RingPipe& first, const RingPipe& second) {
  constexpr size_t kSubmit = 4;
  const uint64_t count_argument = process.call_argument_address(kSubmit, 1);
  if (count_argument == 0) return {Code::kInternal, "AIO contexts need batches that chain calls"};
  const uint64_t head_offset = offsetof(RingHeader, head);
  std::array<RemoteCall, 7> calls{
      RemoteCall{SYS_io_destroy, {ring.start}, 0},
      RemoteCall{SYS_mremap,
                 {fresh, ring.length, ring.length, MREMAP_MAYMOVE | MREMAP_FIXED, ring.start},
                 0},
      RemoteCall{SYS_read, {first.read_end(), shop.spare(), offsetof(RingHeader, tail)}, 0},
      RemoteCall{SYS_read, {first.read_end(), count_argument, sizeof(uint32_t)}, 0},
      RemoteCall{SYS_io_submit, {ring.start, 0, shop.pointers()}, 0},
      RemoteCall{SYS_read, {second.read_end(), shop.spare(), head_offset}, 0},
      RemoteCall{
          SYS_read, {second.read_end(), ring.start + head_offset, ring.length - head_offset}, 0}};
  FERMATA_TRY(process.run(calls));
  const std::array<long, 7> want{0,
                                 static_cast<long>(ring.start),
                                 offsetof(RingHeader, tail),
                                 sizeof(uint32_t),
                                 calls[kSubmit].result,
                                 static_cast<long>(head_offset),
                                 static_cast<long>(ring.length - head_offset)};
  for (size_t i = 0; i < calls.size(); ++i) {
    if (calls[i].result != want[i]) {
      return {Code::kInternal,
              fmt::format("process {}: step {} of replacing an AIO context gave {}", process.pid(),
                          i, calls[i].result)};
    }
  }
  // Short of requests: the rest now that the head says what was read. The events are in the ring by
  // now.
  FERMATA_ASSIGN_STATUS(Ring now, Ring::read(process, ring.start, ring.length));
  const long submitted = calls[kSubmit].result;
  const auto done = static_cast<uint32_t>(std::max(submitted, 0L));
  if (done == now.header().tail) return Status::ok();
  FERMATA_TRY(advance_tail(process, ring.start, shop.pointers(), done, now.header().tail));
  return now.write_back(process);
}

void record(Ring& ring, const AioRing& place, std::span<const uint64_t> resubmit,
            image::AioContext& out) {
  const RingHeader& header = ring.header();
  out.set_address(place.start);
  out.set_length(place.length);
  out.set_slots(header.slots);
  out.set_head(header.head);
  for (uint32_t slot = header.head; slot != header.tail; slot = (slot + 1) % header.slots) {
    const io_event& event = ring.event(slot);
    image::AioEvent& one = *out.add_events();
    one.set_data(event.data);
    one.set_object(event.obj);
    one.set_result(event.res);
    one.set_result2(event.res2);
  }
  for (const uint64_t block : resubmit) out.add_resubmit(block);
}

Status drain_one(Remote& process, const AioRing& ring, image::AioContext& out) {
  if (ring.length > kLongestRing) {
    return {Code::kCannotHold, fmt::format("an AIO context of {} bytes is too large", ring.length)};
  }
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const Ring before,
                        Ring::read(process, ring.start, ring.length));
  FERMATA_ASSIGN_STATUS(const Workshop shop, Workshop::open(process, Ring::slots_in(ring.length)));
  {
    FERMATA_ASSIGN_STATUS(const RingPipe first, RingPipe::hold(process, ring));
    FERMATA_ASSIGN_STATUS(const RingPipe second, RingPipe::hold(process, ring));
    FERMATA_ASSIGN_STATUS(const uint64_t fresh, set_up(process, ring.length));
    FERMATA_TRY(replace(process, ring, fresh, shop, first, second));
  }

  FERMATA_ASSIGN_STATUS(Ring now, Ring::read(process, ring.start, ring.length));
  FERMATA_ASSIGN_STATUS(const std::vector<uint64_t> cancelled, take_out_cancelled(process, now));
  if (!cancelled.empty()) FERMATA_TRY(now.write_back(process));
  record(now, ring, cancelled, out);
  return submit_again(process, ring.start, cancelled);
}

}  // namespace

Status drain_and_capture_aio(Remote& process, std::span<const AioRing> rings, image::Process& out) {
  for (const AioRing& ring : rings) {
    FERMATA_TRY(drain_one(process, ring, *out.add_aio_contexts())
                    .within(fmt::format("AIO context at {:#x}", ring.start)));
  }
  return Status::ok();
}

Status rebuild_aio(Remote& process, const image::AioContext& context) {
  const std::string what = fmt::format("AIO context at {:#x}", context.address());
  const uint64_t length = context.length();
  const auto events = static_cast<uint32_t>(context.events_size());
  if (length < kPageSizeOfRing || length > kLongestRing || length % kPageSizeOfRing != 0 ||
      context.slots() != Ring::slots_in(length) || context.head() >= context.slots() ||
      events >= context.slots()) {
    return {Code::kDamaged, what + " has a ring that cannot be"};
  }
  // Its place is held, so that nothing else is mapped there meanwhile.
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long held,
      process.call(what, SYS_mmap,
                   {context.address(), length, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ULL, 0}));
  FERMATA_ASSIGN_STATUS(const Workshop shop, Workshop::open(process, context.slots()));
  FERMATA_ASSIGN_STATUS(const uint64_t fresh, set_up(process, length));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long moved,
      process.call(what, SYS_mremap,
                   {fresh, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, context.address()}));
  const uint32_t tail = (context.head() + events) % context.slots();
  FERMATA_TRY(advance_tail(process, context.address(), shop.pointers(), 0, tail).within(what));
  FERMATA_ASSIGN_STATUS(Ring ring, Ring::read(process, context.address(), length));
  ring.header().head = context.head();
  ring.header().tail = tail;
  for (uint32_t i = 0; i < events; ++i) {
    const image::AioEvent& event = context.events(static_cast<int>(i));
    ring.event(context.head() + i) = {event.data(), event.object(), event.result(),
                                      event.result2()};
  }
  FERMATA_TRY(ring.write_back(process));
  const std::vector<uint64_t> blocks(context.resubmit().begin(), context.resubmit().end());
  return submit_again(process, context.address(), blocks).within(what);
}

}  // namespace fermata::engine
