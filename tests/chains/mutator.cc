// Changes its memory in every way there is and knows, page by page, what has to stand in it: each
// page bears the number of the write that filled it last, and a table beside holds the same
// numbers. Verifies all of it again and again; what was verified is told in <dir>/verified, so that
// whoever restarts it sees that it is the moment he meant. Ends by PASS when <dir>/go is there.
//
//   mutator SEED
//
// No memory but what is in the table is allocated after the start: the heap is one of the regions.
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/states/state.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
constexpr size_t kMostPages = 1024;
constexpr uint64_t kZero = 0;      // a page that reads as zeros
constexpr uint64_t kFile = ~0ULL;  // a page of the mapped file

enum class Kind { kPrivate, kHuge, kFilePrivate, kHeap, kShared, kMemfd, kStack };

struct Region {
  Kind kind;
  uint8_t* base;
  size_t pages;
  int protection;
  uint64_t* numbers;  // of the writes; of shared ones in shared memory, too
  int fd;             // of a memfd
  uint8_t* second;    // another map of it
  int on_fork;        // MADV_*: what a child gets of it
};

constexpr size_t kRegions = 13;
constexpr uintptr_t kStackEnd = 0x200000000000;  // far from where maps come by themselves
Region regions[kRegions];
uint64_t private_numbers[kRegions][kMostPages];
uint64_t last_write = 1;  // of the program itself; a child's are odd
uint64_t random_state = 1;
uint64_t file_words[kMostPages];  // the first word of each page of the file

uint64_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}
size_t below(size_t limit) { return random_number() % limit; }

uint64_t word_of(uint64_t number, size_t index) {
  const uint64_t x = (number * 0x9e3779b97f4a7c15ULL) ^ (index * 0xbf58476d1ce4e5b9ULL);
  return x ^ (x >> 31);
}

void fill(uint8_t* page, uint64_t number) {
  auto* words = reinterpret_cast<uint64_t*>(page);
  for (size_t i = 0; i < kWords; ++i) words[i] = word_of(number, i);
}

bool is_filled(const uint8_t* page, uint64_t number, size_t index) {
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  if (number == kFile) return words[0] == file_words[index];
  for (size_t i = 0; i < kWords; ++i) {
    if (words[i] != (number == kZero ? 0 : word_of(number, i))) return false;
  }
  return true;
}

bool is_shared(const Region& region) {
  return region.kind == Kind::kShared || region.kind == Kind::kMemfd;
}

/// What a child has of it, if it has it.
uint64_t number_in_child(const Region& region, size_t page) {
  return region.on_fork == MADV_WIPEONFORK ? kZero : region.numbers[page];
}

void verify(const char* who, bool is_child = false) {
  for (size_t r = 0; r < kRegions; ++r) {
    Region& region = regions[r];
    if (is_child && region.on_fork == MADV_DONTFORK) continue;
    const size_t bytes = region.pages * kPage;
    const bool hidden = region.protection == PROT_NONE;
    if (hidden) state::must(mprotect(region.base, bytes, PROT_READ), "mprotect");
    for (size_t page = 0; page < region.pages; ++page) {
      const uint8_t* at = region.base + page * kPage;
      const uint64_t number = is_child ? number_in_child(region, page) : region.numbers[page];
      CHECK(is_filled(at, number, page),
            "%s: page %zu of region %zu (kind %d) at %p is not of write %llx but begins with %llx",
            who, page, r, static_cast<int>(region.kind), static_cast<const void*>(at),
            static_cast<unsigned long long>(number),
            static_cast<unsigned long long>(*reinterpret_cast<const uint64_t*>(at)));
    }
    if (hidden) state::must(mprotect(region.base, bytes, PROT_NONE), "mprotect");
  }
}

// One file, written in place: a cut that falls in here finds it again at any restart.
void tell_verified() {
  const int fd = open(state::path("verified").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  char text[32];
  const int length =
      snprintf(text, sizeof text, "%020llu\n", static_cast<unsigned long long>(last_write));
  if (fd < 0 || pwrite(fd, text, static_cast<size_t>(length), 0) != length) _exit(3);
  close(fd);
}

uint8_t* map(size_t pages, int flags, int fd) {
  void* at = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, flags, fd, 0);
  CHECK(at != MAP_FAILED, "mmap of %zu pages", pages);
  return static_cast<uint8_t*>(at);
}

void make_private(Region& region, size_t pages) {
  region.kind = Kind::kPrivate;
  region.base = map(pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  region.pages = pages;
  region.protection = PROT_READ | PROT_WRITE;
  region.on_fork = MADV_DOFORK;
  for (size_t i = 0; i < kMostPages; ++i) region.numbers[i] = kZero;
}

void write_pages(Region& region) {
  const size_t count = 1 + below(12);
  for (size_t i = 0; i < count; ++i) {
    const size_t page = below(region.pages);
    last_write += 2;
    region.numbers[page] = last_write;
    fill(region.base + page * kPage, last_write);
  }
}

void write_by_the_kernel(Region& region) {
  const size_t page = below(region.pages);
  last_write += 2;
  alignas(8) static uint8_t bytes[kPage];
  fill(bytes, last_write);
  region.numbers[page] = last_write;
  if (region.kind == Kind::kMemfd && below(2) == 0) {
    CHECK(pwrite(region.fd, bytes, kPage, static_cast<off_t>(page * kPage)) == kPage, "pwrite");
    return;
  }
  if (region.kind == Kind::kMemfd) {
    fill(region.second + page * kPage, last_write);
    return;
  }
  int ends[2];
  state::must(pipe(ends), "pipe");
  CHECK(write(ends[1], bytes, kPage) == kPage, "write to a pipe");
  size_t done = 0;
  while (done < kPage) {
    const ssize_t got = read(ends[0], region.base + page * kPage + done, kPage - done);
    CHECK(got > 0, "read into memory");
    done += static_cast<size_t>(got);
  }
  close(ends[0]);
  close(ends[1]);
}

void write_zeros(Region& region) {
  const size_t page = below(region.pages);
  memset(region.base + page * kPage, 0, kPage);
  region.numbers[page] = kZero;
}

void give_back(Region& region) {
  size_t first = below(region.pages);
  size_t count = 1 + below(std::min<size_t>(region.pages - first, 40));
  if (region.pages == kMostPages && below(3) == 0) {  // with it goes its page table
    first = below(2) * (kMostPages / 2);
    count = kMostPages / 2;
  }
  state::must(madvise(region.base + first * kPage, count * kPage, MADV_DONTNEED), "DONTNEED");
  for (size_t i = first; i < first + count; ++i) {
    region.numbers[i] = region.kind == Kind::kFilePrivate ? kFile : kZero;
  }
  if (region.protection == PROT_NONE) return;
  // Some are read again: the kernel's page of zeros.
  volatile uint8_t sum = 0;
  for (size_t i = first; i < first + count; i += 3) sum = sum + region.base[i * kPage];
}

void free_lazily(Region& region) {
  const size_t first = below(region.pages);
  const size_t count = 1 + below(std::min<size_t>(region.pages - first, 40));
  state::must(madvise(region.base + first * kPage, count * kPage, MADV_FREE), "FREE");
  for (size_t i = first; i < first + count; ++i) {  // until then it may be either
    last_write += 2;
    fill(region.base + i * kPage, last_write);
    region.numbers[i] = last_write;
  }
}

void map_anew(Region& region) {
  uint8_t* before = region.base;
  const size_t pages = region.pages;
  munmap(before, pages * kPage);
  make_private(region, 16 + below(400));
  if (below(2) == 0 || region.pages > pages) return;
  // At the same address as before, and nothing of what was there.
  munmap(region.base, region.pages * kPage);
  void* at = mmap(before, region.pages * kPage, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(at == before, "mmap at the same address");
  region.base = before;
}

void resize(Region& region) {
  const size_t pages = 16 + below(500);
  void* at = mremap(region.base, region.pages * kPage, pages * kPage, MREMAP_MAYMOVE);
  CHECK(at != MAP_FAILED, "mremap");
  region.base = static_cast<uint8_t*>(at);
  for (size_t i = std::min(pages, region.pages); i < kMostPages; ++i) region.numbers[i] = kZero;
  region.pages = pages;
}

/// Cut short, and longer again in its place: what was cut off reads as zeros.
void regrow(Region& region) {
  const size_t left = 1 + below(region.pages - 1);
  CHECK(mremap(region.base, region.pages * kPage, left * kPage, 0) == region.base, "shrinking");
  CHECK(mremap(region.base, left * kPage, region.pages * kPage, 0) == region.base, "growing");
  for (size_t i = left; i < region.pages; ++i) region.numbers[i] = kZero;
}

/// It grows downwards, by itself.
void grow_stack(Region& region) {
  const size_t more = 1 + below(8);
  if (region.pages + more > 600) return;
  memmove(region.numbers + more, region.numbers, region.pages * sizeof *region.numbers);
  for (size_t i = 0; i < more; ++i) region.numbers[i] = kZero;
  region.base -= more * kPage;
  region.pages += more;
  last_write += 2;
  region.numbers[0] = last_write;
  fill(region.base, last_write);
}

/// A map that becomes three, and one again.
void split_and_join(Region& region) {
  if (region.pages < 3) return;
  uint8_t* middle = region.base + (1 + below(region.pages - 2)) * kPage;
  state::must(mprotect(middle, kPage, PROT_READ), "mprotect");
  last_write += 2;
  fill(middle + kPage, last_write);
  region.numbers[static_cast<size_t>(middle - region.base) / kPage + 1] = last_write;
  state::must(mprotect(middle, kPage, PROT_READ | PROT_WRITE), "mprotect");
}

void give_to_children(Region& region) {
  constexpr int kAdvice[] = {MADV_DONTFORK, MADV_WIPEONFORK, MADV_DOFORK};
  const size_t bytes = region.pages * kPage;
  state::must(madvise(region.base, bytes, MADV_DOFORK), "DOFORK");
  state::must(madvise(region.base, bytes, MADV_KEEPONFORK), "KEEPONFORK");
  region.on_fork = kAdvice[below(3)];
  state::must(madvise(region.base, bytes, region.on_fork), "madvise");
}

void move(Region& region) {
  const size_t bytes = region.pages * kPage;
  uint8_t* room = map(region.pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  void* at = mremap(region.base, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, room);
  CHECK(at == room, "mremap to an address");
  region.base = room;
}

void protect(Region& region) {
  constexpr int kProtections[] = {PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE};
  region.protection = kProtections[below(3)];
  state::must(mprotect(region.base, region.pages * kPage, region.protection), "mprotect");
}

void grow_heap(Region& region) {
  const auto change = static_cast<intptr_t>(below(60)) - 25;
  const auto pages = static_cast<intptr_t>(region.pages) + change;
  if (pages < 16 || pages > 600) return;
  CHECK(sbrk(0) == region.base + region.pages * kPage, "somebody else moved the heap's end");
  CHECK(sbrk(change * static_cast<intptr_t>(kPage)) != reinterpret_cast<void*>(-1), "sbrk");
  for (auto i = static_cast<size_t>(std::min<intptr_t>(pages, pages - change)); i < kMostPages;
       ++i) {
    region.numbers[i] = kZero;
  }
  region.pages = static_cast<size_t>(pages);
}

/// A child that finds all as it was, spoils what is its own and writes to what is shared.
void fork_child() {
  const uint64_t number = last_write + 1;
  last_write += 2;
  const pid_t child = state::must(fork(), "fork");
  if (child == 0) {
    verify("a child", true);
    for (Region& region : regions) {
      if ((region.protection & PROT_WRITE) == 0 || region.on_fork == MADV_DONTFORK) continue;
      const size_t page = below(region.pages);
      if (is_shared(region)) region.numbers[page] = number;
      fill(region.base + page * kPage, number);
    }
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR, "waitpid");
  CHECK(status == 0, "the child ended with %x", status);
}

void mutate() {
  Region& region = regions[below(kRegions)];
  const bool writable = (region.protection & PROT_WRITE) != 0;
  const bool anonymous = region.kind == Kind::kPrivate || region.kind == Kind::kHuge;
  switch (below(20)) {
    case 0:
      if (!is_shared(region)) give_back(region);
      break;
    case 1:
      if (writable && anonymous) free_lazily(region);
      break;
    case 2:
      if (region.kind == Kind::kPrivate) map_anew(region);
      break;
    case 3:
      if (region.kind == Kind::kPrivate) resize(region);
      break;
    case 4:
      if (region.kind == Kind::kPrivate) move(region);
      break;
    case 5:
      if (region.kind == Kind::kPrivate || region.kind == Kind::kFilePrivate) protect(region);
      break;
    case 6:
      if (region.kind == Kind::kHeap) grow_heap(region);
      if (region.kind == Kind::kStack) grow_stack(region);
      break;
    case 7:
      fork_child();
      break;
    case 8:  // a wish; it may be refused
      if (region.kind == Kind::kHuge) madvise(region.base, region.pages * kPage, MADV_COLLAPSE);
      break;
    case 9:
    case 10:
      if (writable) write_by_the_kernel(region);
      break;
    case 11:
      if (writable) write_zeros(region);
      break;
    case 12:
      if (writable && anonymous) regrow(region);
      break;
    case 13:
      if (writable && anonymous) split_and_join(region);
      break;
    case 14:
      if (region.kind == Kind::kPrivate) give_to_children(region);
      break;
    default:
      if (writable) write_pages(region);
  }
}

void make_file(const std::string& name) {
  const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  CHECK(fd >= 0, "making %s", name.c_str());
  alignas(8) static uint8_t bytes[kPage];
  for (size_t page = 0; page < 64; ++page) {
    fill(bytes, page + 1000000);
    file_words[page] = word_of(page + 1000000, 0);
    CHECK(write(fd, bytes, kPage) == kPage, "filling %s", name.c_str());
  }
  close(fd);
}

void make_stack(Region& region) {
  constexpr size_t kPages = 20;
  auto* base = reinterpret_cast<uint8_t*>(kStackEnd - kPages * kPage);
  void* at = mmap(base, kPages * kPage, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(at == base, "mmap of a stack");
  region = {Kind::kStack,       base, kPages,  PROT_READ | PROT_WRITE,
            private_numbers[8], -1,   nullptr, MADV_DOFORK};
}

void make_regions() {
  for (size_t r = 0; r < kRegions; ++r) regions[r].numbers = private_numbers[r];
  for (size_t r = 0; r < 5; ++r) make_private(regions[r], 50 + 70 * r);

  // Two huge pages, aligned to one.
  Region& huge = regions[5];
  make_private(huge, kMostPages + 512);
  constexpr uintptr_t kHuge = 2 << 20;
  const auto start = reinterpret_cast<uintptr_t>(huge.base);
  huge = {Kind::kHuge,
          reinterpret_cast<uint8_t*>((start + kHuge - 1) / kHuge * kHuge),
          kMostPages,
          PROT_READ | PROT_WRITE,
          private_numbers[5],
          -1,
          nullptr,
          MADV_DOFORK};
  madvise(huge.base, huge.pages * kPage, MADV_HUGEPAGE);

  const std::string name = state::path("mapped");
  make_file(name);
  const int file = state::must(open(name.c_str(), O_RDONLY | O_CLOEXEC), "open");
  regions[6] = {Kind::kFilePrivate,
                map(64, MAP_PRIVATE, file),
                64,
                PROT_READ | PROT_WRITE,
                private_numbers[6],
                -1,
                nullptr,
                MADV_DOFORK};
  close(file);
  for (size_t i = 0; i < 64; ++i) regions[6].numbers[i] = kFile;

  auto* heap = static_cast<uint8_t*>(sbrk(0));
  const auto gap = (kPage - reinterpret_cast<uintptr_t>(heap) % kPage) % kPage;
  CHECK(sbrk(static_cast<intptr_t>(gap + 100 * kPage)) == heap, "sbrk");
  regions[7] = {Kind::kHeap,        heap + gap, 100,     PROT_READ | PROT_WRITE,
                private_numbers[7], -1,         nullptr, MADV_DOFORK};

  make_stack(regions[8]);
  for (size_t r = 9; r < kRegions; ++r) {
    Region& region = regions[r];
    region.on_fork = MADV_DOFORK;
    region.pages = 40 + 20 * r;
    region.protection = PROT_READ | PROT_WRITE;
    region.numbers = reinterpret_cast<uint64_t*>(
        map(kMostPages * sizeof(uint64_t) / kPage, MAP_SHARED | MAP_ANONYMOUS, -1));
    region.kind = r % 2 == 0 ? Kind::kShared : Kind::kMemfd;
    if (region.kind == Kind::kShared) {
      region.base = map(region.pages, MAP_SHARED | MAP_ANONYMOUS, -1);
    } else {
      region.fd = state::must(memfd_create("mutator", MFD_CLOEXEC), "memfd_create");
      state::must(ftruncate(region.fd, static_cast<off_t>(region.pages * kPage)), "ftruncate");
      region.base = map(region.pages, MAP_SHARED, region.fd);
      region.second = map(region.pages, MAP_SHARED, region.fd);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string go = state::path("go");
  random_state = argc > 1 ? strtoull(argv[1], nullptr, 10) | 1 : 1;
  make_regions();
  state::put("ready", "ready\n");
  while (access(go.c_str(), F_OK) != 0) {
    for (int i = 0; i < 40; ++i) mutate();
    verify("the program");
    tell_verified();
    usleep(500);
  }
  verify("the end");
  state::pass();
}
