// Linux AIO (raw system calls): reads in flight at the cut, completions unread; each is delivered
// once, whether the job runs on or is restarted, and every byte of a read is there when its
// completion is.
#include <linux/aio_abi.h>

#include <algorithm>
#include <vector>

#include "tests/states/state.h"

namespace {
constexpr size_t kBlock = 256 * 1024;
constexpr int kDepth = 32;

long submit(aio_context_t context, iocb* block) {
  return syscall(SYS_io_submit, context, 1, &block);
}
}  // namespace

int main() {
  const std::string name = state::path("blocks");
  auto* data = static_cast<uint8_t*>(aligned_alloc(4096, kBlock * kDepth));
  state::fill(data, kBlock * kDepth, 19);
  const int writer = state::must(open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), "open");
  for (size_t at = 0; at < kBlock * kDepth;) {
    at += static_cast<size_t>(state::must(write(writer, data + at, kBlock * kDepth - at), "write"));
  }
  fsync(writer);
  close(writer);
  // O_DIRECT where the file system has it, so that reads are truly in flight.
  int fd = open(name.c_str(), O_RDONLY | O_DIRECT);
  if (fd < 0) fd = state::must(open(name.c_str(), O_RDONLY), "open");
  aio_context_t context = 0;
  state::must(syscall(SYS_io_setup, 64, &context), "io_setup");
  std::vector<iocb> blocks(kDepth);
  auto* target = static_cast<uint8_t*>(aligned_alloc(4096, kBlock * kDepth));
  memset(target, 0, kBlock * kDepth);
  std::vector<int> delivered(kDepth);
  auto start = [&](size_t i) {
    memset(target + i * kBlock, 0, kBlock);
    blocks[i] = iocb{};
    blocks[i].aio_data = 7000 + i;
    blocks[i].aio_lio_opcode = IOCB_CMD_PREAD;
    blocks[i].aio_fildes = static_cast<uint32_t>(fd);
    blocks[i].aio_buf = reinterpret_cast<uint64_t>(target + i * kBlock);
    blocks[i].aio_nbytes = kBlock;
    blocks[i].aio_offset = static_cast<int64_t>(i * kBlock);
    CHECK(submit(context, &blocks[i]) == 1, "io_submit: %s", strerror(errno));
    delivered[i]--;
  };
  auto collect = [&](long least) {
    io_event events[kDepth];
    const long count = state::must(
        syscall(SYS_io_getevents, context, least, kDepth, events, nullptr), "io_getevents");
    for (long k = 0; k < count; k++) {
      const size_t i = events[k].data - 7000;
      CHECK(i < kDepth && events[k].res == ssize_t{kBlock}, "completion %llu gave %lld",
            events[k].data, events[k].res);
      CHECK(++delivered[i] == 0, "read %zu was completed twice", i);
      CHECK(memcmp(target + i * kBlock, data + i * kBlock, kBlock) == 0,
            "read %zu was completed, but its bytes are not there", i);
    }
    return count;
  };
  for (size_t i = 0; i < kDepth; i++) start(i);
  long in_flight = kDepth;
  for (int round = 0; !state::go(); round++) {
    in_flight -= collect(1);
    for (size_t i = 0; i < kDepth; i++) {
      if (delivered[i] == 0) {
        start(i);
        in_flight++;
      }
    }
    if (round == 10) state::ready();
  }
  while (in_flight > 0) in_flight -= collect(1);
  CHECK(collect(0) == 0, "there is a completion too many");
  state::must(syscall(SYS_io_destroy, context), "io_destroy");
  state::pass();
}
