// Changes its memory in every way there is and knows, page by page, what has to stand in it
// (regions.h). Verifies all of it again and again; what was verified is told in <dir>/verified, so
// that whoever restarts it sees that it is the moment he meant. Ends by PASS when <dir>/go is
// there.
//
//   mutator SEED [pool]      pool: also with huge pages of the machine's pool (MAP_HUGETLB)
#include <sys/mman.h>

#include "tests/chains/regions.h"
#include "tests/states/state.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace mutator {
namespace {

uint64_t random_state = 1;

uint64_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}
size_t below(size_t limit) { return random_number() % limit; }

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
  const bool of_file = region.kind == Kind::kFilePrivate || region.kind == Kind::kFileShared;
  for (size_t i = first; i < first + count; ++i) {
    region.numbers[i] = of_file ? kFile : kZero;
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

/// Moved, and the map stays where it was, with nothing in it (Linux 5.7).
void move_and_stay(Region& region) {
  const size_t bytes = region.pages * kPage;
  uint8_t* room = map(region.pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  constexpr int kStays = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  CHECK(mremap(region.base, bytes, bytes, kStays, room) == room, "mremap of a map that stays");
  if (region.protection != PROT_NONE) {
    for (size_t at = 0; at < bytes; at += 7 * kPage) {
      CHECK(region.base[at] == 0, "byte %zu of a map that stayed was not moved", at);
    }
  }
  state::must(munmap(region.base, bytes), "munmap");
  region.base = room;
}

/// The first pages of it are moved to where those of another were, whose others stay; the rest of
/// it goes.
void move_onto(Region& region, Region& other) {
  constexpr size_t kLeast = 16;
  if (&region == &other || region.pages <= kLeast || other.pages <= 2 * kLeast) return;
  const size_t most = std::min(region.pages, other.pages - kLeast);
  const size_t count = kLeast + below(most - kLeast + 1);
  void* at = mremap(region.base, region.pages * kPage, count * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                    other.base);
  CHECK(at == other.base, "mremap onto another map");
  region.base = other.base;
  region.pages = count;
  for (size_t i = count; i < kMostPages; ++i) region.numbers[i] = kZero;
  other.base += count * kPage;
  other.pages -= count;
  memmove(other.numbers, other.numbers + count, other.pages * sizeof *other.numbers);
  for (size_t i = other.pages; i < kMostPages; ++i) other.numbers[i] = kZero;
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

/// Memory of huge pages of the machine's pool: one is given back, or goes with its half of the map,
/// or all of them go and others come.
void change_pool(Region& region) {
  const size_t count = region.pages / kHugePage;
  const size_t which = below(count);
  constexpr size_t kBytes = kHugePage * kPage;
  switch (below(4)) {
    case 0:
      state::must(munmap(region.base, region.pages * kPage), "munmap");
      make_of_pool(region, 1 + below(2));
      break;
    case 1:
      if (count < 2) break;
      state::must(munmap(region.base + kBytes, kBytes), "munmap");
      region.pages = kHugePage;
      break;
    case 2:
      region.on_fork = below(2) == 0 ? MADV_DONTFORK : MADV_DOFORK;
      state::must(madvise(region.base, region.pages * kPage, region.on_fork), "madvise");
      break;
    default:
      state::must(madvise(region.base + which * kBytes, kBytes, MADV_DONTNEED), "DONTNEED");
      for (size_t i = 0; i < kHugePage; ++i) region.numbers[which * kHugePage + i] = kZero;
  }
}

/// A child that finds all as it was, spoils what is its own and writes to what is shared.
void fork_child() {
  const uint64_t number = last_write + 1;
  last_write += 2;
  const pid_t child = state::must(fork(), "fork");
  if (child == 0) {
    verify("a child", true);
    for (size_t r = 0; r < region_count; ++r) {
      Region& region = regions[r];
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
  Region& region = regions[below(region_count)];
  const bool writable = (region.protection & PROT_WRITE) != 0;
  const bool anonymous = region.kind == Kind::kPrivate || region.kind == Kind::kHuge;
  switch (below(23)) {
    case 0:
      if (region.kind == Kind::kPool) {
        change_pool(region);
      } else if (!is_shared(region)) {
        give_back(region);
      }
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
      if (region.kind == Kind::kPrivate || region.kind == Kind::kFilePrivate ||
          region.kind == Kind::kPool) {
        protect(region);
      }
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
    case 15:
      if (region.kind == Kind::kPrivate) move_and_stay(region);
      break;
    case 16:
      if (region.kind == Kind::kPrivate) move_onto(region, regions[below(kPrivateRegions)]);
      break;
    case 17:
      if (region.kind == Kind::kPool) change_pool(region);
      break;
    default:
      if (writable) write_pages(region);
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

}  // namespace
}  // namespace mutator

int main(int argc, char** argv) {
  const std::string go = state::path("go");
  mutator::random_state = argc > 1 ? strtoull(argv[1], nullptr, 10) | 1 : 1;
  mutator::make_regions(argc > 2 && strcmp(argv[2], "pool") == 0);
  state::put("ready", "ready\n");
  while (access(go.c_str(), F_OK) != 0) {
    for (int i = 0; i < 40; ++i) mutator::mutate();
    mutator::verify("the program");
    mutator::tell_verified();
    usleep(500);
  }
  mutator::verify("the end");
  state::pass();
}
