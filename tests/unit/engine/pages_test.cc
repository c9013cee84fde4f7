#include "node-agent/engine/pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace fermata::engine {
namespace {

constexpr size_t kPages = 1500;  // more than one call takes
constexpr size_t kMapBytes = kPages * kPageSize;

// process_vm_readv(2) ends at the first page that the program itself may not read.
TEST(ProcessMemorySource, ReadsScatteredPages_AlsoThoseTheProgramMayNotRead) {
  void* map =
      ::mmap(nullptr, kMapBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(map, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(map);
  for (size_t page = 0; page < kPages; ++page) {
    std::memcpy(bytes + page * kPageSize, &page, sizeof page);
  }
  // The first, some by themselves, many side by side, the last.
  for (const auto& [first, count] :
       std::vector<std::pair<size_t, size_t>>{{0, 1}, {100, 1}, {102, 1}, {600, 200}, {1499, 1}}) {
    ASSERT_EQ(::mprotect(bytes + first * kPageSize, count * kPageSize, PROT_NONE), 0);
  }
  const auto source = ProcessMemorySource::open(::getpid());
  ASSERT_TRUE(source) << source.error().message();
  std::vector<std::byte> out(kMapBytes);
  std::vector<MemoryPiece> pieces;
  for (size_t page = 0; page < kPages; ++page) {
    pieces.push_back({reinterpret_cast<uint64_t>(bytes) + page * kPageSize,
                      std::span(out).subspan(page * kPageSize, kPageSize)});
  }
  const Status status = (*source)->read_scattered(pieces);
  EXPECT_TRUE(status) << status.message();
  for (size_t page = 0; page < kPages; ++page) {
    size_t found = ~size_t{0};
    std::memcpy(&found, out.data() + page * kPageSize, sizeof found);
    EXPECT_EQ(found, page);
  }
  ::munmap(map, kMapBytes);
}

}  // namespace
}  // namespace fermata::engine
