#include "tests/chains/regions.h"

#include <sys/stat.h>

#include "tests/states/state.h"

namespace mutator {

Region regions[kRegions];
size_t region_count = kRegions - kPoolRegions;
uint64_t last_write = 1;

namespace {

constexpr uintptr_t kStackEnd = 0x200000000000;  // far from where maps come by themselves
uint64_t private_numbers[kRegions][kMostPages];
uint64_t file_words[kMostPages];  // the first word of each page of the file

uint64_t word_of(uint64_t number, size_t index) {
  const uint64_t x = (number * 0x9e3779b97f4a7c15ULL) ^ (index * 0xbf58476d1ce4e5b9ULL);
  return x ^ (x >> 31);
}

}  // namespace

void fill(uint8_t* page, uint64_t number) {
  auto* words = reinterpret_cast<uint64_t*>(page);
  for (size_t i = 0; i < kWords; ++i) words[i] = word_of(number, i);
}

namespace {

bool is_filled(const uint8_t* page, uint64_t number, size_t index) {
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  if (number == kFile) return words[0] == file_words[index];
  for (size_t i = 0; i < kWords; ++i) {
    if (words[i] != (number == kZero ? 0 : word_of(number, i))) return false;
  }
  return true;
}

}  // namespace

bool is_shared(const Region& region) {
  return region.kind == Kind::kShared || region.kind == Kind::kMemfd;
}

namespace {

/// What a child has of it, if it has it.
uint64_t number_in_child(const Region& region, size_t page) {
  return region.on_fork == MADV_WIPEONFORK ? kZero : region.numbers[page];
}

}  // namespace

void verify(const char* who, bool is_child) {
  for (size_t r = 0; r < region_count; ++r) {
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

namespace {

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

Region of_pool(Kind kind, int sharing, size_t pages, uint64_t* numbers) {
  const int flags = sharing | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
  return {kind,       map(pages, flags, -1), pages, PROT_READ | PROT_WRITE, numbers, -1, nullptr,
          MADV_DOFORK};
}

uint64_t* shared_numbers() {
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS;
  return reinterpret_cast<uint64_t*>(map(kMostPages * sizeof(uint64_t) / kPage, kShared, -1));
}

}  // namespace

void make_of_pool(Region& region, size_t count) {
  region = of_pool(Kind::kPool, MAP_PRIVATE, count * kHugePage, region.numbers);
  for (size_t i = 0; i < kMostPages; ++i) region.numbers[i] = kZero;
}

void make_regions(bool with_pool) {
  for (size_t r = 0; r < kRegions; ++r) regions[r].numbers = private_numbers[r];
  for (size_t r = 0; r < kPrivateRegions; ++r) make_private(regions[r], 50 + 70 * r);

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
  // Nobody writes to this one: an image has nothing of it.
  void* shared = mmap(nullptr, 64 * kPage, PROT_READ, MAP_SHARED, file, 0);
  CHECK(shared != MAP_FAILED, "mmap of a file that is shared");
  close(file);
  regions[13] = {Kind::kFileShared,
                 static_cast<uint8_t*>(shared),
                 64,
                 PROT_READ,
                 private_numbers[13],
                 -1,
                 nullptr,
                 MADV_DOFORK};
  for (const size_t r : {size_t{6}, size_t{13}}) {
    for (size_t i = 0; i < 64; ++i) regions[r].numbers[i] = kFile;
  }

  auto* heap = static_cast<uint8_t*>(sbrk(0));
  const auto gap = (kPage - reinterpret_cast<uintptr_t>(heap) % kPage) % kPage;
  CHECK(sbrk(static_cast<intptr_t>(gap + 100 * kPage)) == heap, "sbrk");
  regions[7] = {Kind::kHeap,        heap + gap, 100,     PROT_READ | PROT_WRITE,
                private_numbers[7], -1,         nullptr, MADV_DOFORK};

  make_stack(regions[8]);
  for (size_t r = 9; r < 13; ++r) {
    Region& region = regions[r];
    region.on_fork = MADV_DOFORK;
    region.pages = 40 + 20 * r;
    region.protection = PROT_READ | PROT_WRITE;
    region.numbers = shared_numbers();
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
  if (!with_pool) return;
  make_of_pool(regions[region_count++], 1);
  make_of_pool(regions[region_count++], 2);
  regions[region_count++] = of_pool(Kind::kShared, MAP_SHARED, kHugePage, shared_numbers());
}

}  // namespace mutator
