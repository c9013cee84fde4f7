// Huge pages of the machine's pool (MAP_HUGETLB): some written, one not, one that may only be
// read, and some that a child has its own bytes in.
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kPage = size_t{2} << 20;
constexpr size_t kPages = 4;
constexpr size_t kHole = 1;
constexpr size_t kReadOnly = 2;
constexpr int kHuge = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);

uint8_t* map_huge(size_t pages, int flags) {
  void* memory = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, kHuge | flags, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap of %zu huge pages", pages);
  return static_cast<uint8_t*>(memory);
}

/// Whether the first page of a map is there (mincore(2)).
bool is_there(uint8_t* page) {
  unsigned char there = 0;
  state::must(mincore(page, 1, &there), "mincore");
  return (there & 1) != 0;
}

/// KernelPageSize of the map that begins at `address`, in KiB (proc_pid_smaps(5)).
unsigned long page_kib(const void* address) {
  FILE* file = fopen("/proc/self/smaps", "re");
  CHECK(file != nullptr, "smaps");
  unsigned long kib = 0;
  bool found = false;
  for (char line[512]; fgets(line, sizeof line, file) != nullptr;) {
    unsigned long start = 0;
    char dash = 0;
    if (sscanf(line, "%lx%c", &start, &dash) == 2 && dash == '-') {
      found = start == reinterpret_cast<uintptr_t>(address);
    }
    if (found && sscanf(line, "KernelPageSize: %lu", &kib) == 1) break;
  }
  fclose(file);
  return kib;
}

void check_page(const uint8_t* memory, size_t page, unsigned seed, const char* whose) {
  state::check_filled(memory + page * kPage, kPage, seed, whose);
}

}  // namespace

int main() {
  uint8_t* memory = map_huge(kPages, 0);
  uint8_t* unreserved = map_huge(2, MAP_NORESERVE);
  for (size_t page = 0; page < kPages; ++page) {
    if (page != kHole) state::fill(memory + page * kPage, kPage, static_cast<unsigned>(page));
  }
  state::fill(unreserved + kPage, 4096, 7);
  state::must(mprotect(memory + kReadOnly * kPage, kPage, PROT_READ), "mprotect");
  const pid_t child = state::child([&] {
    state::fill(memory, kPage, 20);
    state::put("child", "ready\n");
    // Written all the time, also while a twin is there: it takes no page of its own.
    for (volatile uint8_t* first = memory; !state::go(); state::sleep_ms(1)) {
      *first = state::pattern(0, 20);
    }
    check_page(memory, 0, 20, "a child's page");
    check_page(memory, kReadOnly, kReadOnly, "a page that the child has of its parent");
    state::fill(memory, kPage, 21);
    check_page(memory, 0, 21, "a child's page that it writes again");
  });
  while (access(state::path("child").c_str(), F_OK) != 0) state::sleep_ms(2);
  state::hold();

  CHECK(page_kib(memory) == 2048, "the pages are of %lu KiB", page_kib(memory));
  CHECK(!is_there(memory + kHole * kPage), "a page is there that was never written");
  for (size_t page = 0; page < kPages; ++page) {
    if (page != kHole) check_page(memory, page, static_cast<unsigned>(page), "huge pages");
  }
  state::check_filled(unreserved + kPage, 4096, 7, "a page that was not reserved");
  CHECK(unreserved[kPage + 4096] == 0 && !is_there(unreserved), "what was not written");
  state::reap(child);
  int pipe_ends[2];
  state::must(pipe(pipe_ends), "pipe");
  state::must(write(pipe_ends[1], "x", 1), "write");
  CHECK(read(pipe_ends[0], memory + kReadOnly * kPage, 1) == -1 && errno == EFAULT,
        "a page may be written that could only be read");
  state::fill(memory, kPage, 30);
  state::fill(memory + kHole * kPage, kPage, 31);
  check_page(memory, 0, 30, "a page that is written again");
  check_page(memory, kHole, 31, "a page that was a hole");
  state::must(munmap(memory, kPages * kPage), "munmap");
  state::pass();
}
