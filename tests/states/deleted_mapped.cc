// A file that was deleted while it is mapped, shared by two processes: neither name nor descriptor
// is left.
#include <sys/mman.h>

#include <atomic>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 32 * 4096;
  const std::string name = state::path("deleted");
  const int fd = state::must(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), "open");
  state::must(ftruncate(fd, kSize), "ftruncate");
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  state::must(unlink(name.c_str()), "unlink");
  close(fd);
  auto* words = static_cast<std::atomic<uint32_t>*>(memory);
  state::fill(words + 1024, kSize - 4096, 7);
  const pid_t pid = state::child([words] {
    state::wait_for_go();
    state::check_filled(words + 1024, kSize - 4096, 7, "the child's view");
    words[0] = 99;
  });
  state::hold();
  state::reap(pid);
  CHECK(words[0] == 99, "the two processes no longer share the deleted file");
  state::check_filled(words + 1024, kSize - 4096, 7, "the parent's view");
  CHECK(access(name.c_str(), F_OK) != 0, "the deleted file has a name again");
  state::pass();
}
