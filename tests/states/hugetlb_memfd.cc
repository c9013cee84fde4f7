// A memfd of huge pages (MFD_HUGETLB), sealed: a page written by a map that is gone, a hole, and
// one that is mapped.
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kPage = size_t{2} << 20;
constexpr size_t kHole = 1;
constexpr size_t kMapped = 2;
constexpr size_t kPages = 3;

uint8_t* map(int fd, size_t page) {
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                      static_cast<off_t>(page * kPage));
  CHECK(memory != MAP_FAILED, "mmap of page %zu", page);
  return static_cast<uint8_t*>(memory);
}

}  // namespace

int main() {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB;
  const int fd = state::must(memfd_create("huge", kFlags | (21U << MAP_HUGE_SHIFT)),
                             "memfd_create of huge pages");
  state::must(ftruncate(fd, kPages * kPage), "ftruncate");
  uint8_t* first = map(fd, 0);
  state::fill(first, kPage, 1);
  state::must(munmap(first, kPage), "munmap");
  uint8_t* mapped = map(fd, kMapped);
  state::fill(mapped, 4096, 2);
  state::must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "sealing");
  state::hold();

  state::check_filled(mapped, 4096, 2, "the page that is mapped");
  CHECK(mapped[4096] == 0, "what was not written of it");
  mapped[8192] = 3;
  uint8_t byte = 0;
  CHECK(pread(fd, &byte, 1, kMapped * kPage + 8192) == 1 && byte == 3,
        "the map is of another file");
  first = map(fd, 0);
  state::check_filled(first, kPage, 1, "the page of a map that was gone");
  const uint8_t* hole = map(fd, kHole);
  CHECK(hole[0] == 0 && hole[kPage - 1] == 0, "a hole");
  struct stat status {};
  state::must(fstat(fd, &status), "fstat");
  CHECK(status.st_blksize == kPage, "its pages are of %ld bytes",
        static_cast<long>(status.st_blksize));
  CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW), "the seals");
  state::pass();
}
