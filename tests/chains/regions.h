// The memory of the mutator: regions, and page by page what has to stand in them. Each page bears
// the number of the write that filled it last, and a table beside holds the same numbers. No memory
// but what is in the table is allocated after the start: the heap is one of the regions.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace mutator {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
constexpr size_t kMostPages = 1024;
constexpr size_t kHugePage = 512;  // in pages
constexpr uint64_t kZero = 0;      // a page that reads as zeros
constexpr uint64_t kFile = ~0ULL;  // a page of the mapped file

enum class Kind {
  kPrivate,
  kHuge,
  kFilePrivate,
  kFileShared,
  kHeap,
  kShared,
  kMemfd,
  kStack,
  kPool
};

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

constexpr size_t kPoolRegions = 3;  // the last ones, if there are any: one is shared
constexpr size_t kRegions = 14 + kPoolRegions;
constexpr size_t kPrivateRegions = 5;  // the first ones are kPrivate, and stay so
extern Region regions[kRegions];       // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
extern size_t region_count;            // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)
/// Of the program itself; a child's are odd.
extern uint64_t last_write;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

/// `with_pool`: those of huge pages of the machine's pool (MAP_HUGETLB), too.
void make_regions(bool with_pool);
/// Makes it a map of `count` huge pages of the machine's pool (MAP_HUGETLB).
void make_of_pool(Region& region, size_t count);
/// Makes it a map of its own with nothing in it.
void make_private(Region& region, size_t pages);
uint8_t* map(size_t pages, int flags, int fd);
void fill(uint8_t* page, uint64_t number);
bool is_shared(const Region& region);
/// Ends the program with a sentence unless all is as the table says. A child has what it was given.
void verify(const char* who, bool is_child = false);

}  // namespace mutator
