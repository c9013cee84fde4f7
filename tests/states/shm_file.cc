// A file in /dev/shm mapped by two processes through their own opens, as MPI libraries do.
#include <sys/mman.h>

#include <atomic>

#include "tests/states/state.h"

namespace {
constexpr size_t kSize = 1 << 20;
std::string shm_name() { return "/fermata-state-" + std::to_string(getpgrp()); }

std::atomic<uint32_t>* attach() {
  const int fd = state::must(shm_open(shm_name().c_str(), O_RDWR, 0600), "shm_open");
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  close(fd);
  return static_cast<std::atomic<uint32_t>*>(memory);
}
}  // namespace

int main() {
  shm_unlink(shm_name().c_str());
  const int fd =
      state::must(shm_open(shm_name().c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), "shm_open");
  state::must(ftruncate(fd, kSize), "ftruncate");
  std::atomic<uint32_t>* words = attach();
  state::fill(words + 1024, kSize - 4096, 6);
  const pid_t pid = state::child([] {
    std::atomic<uint32_t>* own = attach();
    own[0] = 1;
    state::wait_for_go();
    state::check_filled(own + 1024, kSize - 4096, 6, "the child's view");
    own[1] = 4711;
  });
  while (words[0] != 1) state::sleep_ms(1);
  state::hold();
  state::reap(pid);
  CHECK(words[1] == 4711, "the two processes no longer share the file");
  state::check_filled(words + 1024, kSize - 4096, 6, "the parent's view");
  CHECK(attach()[1] == 4711, "the name leads to another file");
  uint32_t through_fd = 0;
  CHECK(pread(fd, &through_fd, 4, 4) == 4 && through_fd == 4711,
        "the descriptor shows another file");
  shm_unlink(shm_name().c_str());
  state::pass();
}
