// Has much memory, goes on writing to all of it, and knows what has to stand in each page: its
// number, and how often it was written. All of it is verified again and again; how far that is, is
// told in <dir>/verified. Ends by PASS when <dir>/go is there.
//
//   tight MEBIBYTES
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
// Where in a page its words are: what lies between is zeros.
constexpr size_t kStep = 64;

uint64_t word_of(size_t page, uint64_t round, size_t index) {
  const uint64_t x = (page * 0x9e3779b97f4a7c15ULL) ^ (round * 0xbf58476d1ce4e5b9ULL) ^ index;
  return x ^ (x >> 29);
}

void tell_verified(uint64_t round) {
  const int fd = open(state::path("verified").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  char text[32];
  const int length =
      snprintf(text, sizeof text, "%020llu\n", static_cast<unsigned long long>(round));
  if (fd < 0 || pwrite(fd, text, static_cast<size_t>(length), 0) != length) _exit(3);
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  const size_t pages = (argc > 1 ? strtoull(argv[1], nullptr, 10) : 64) * (1 << 20) / kPage;
  void* room =
      mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED, "mmap of %zu pages", pages);
  auto* words = static_cast<uint64_t*>(room);
  const std::string go = state::path("go");
  for (uint64_t round = 1; access(go.c_str(), F_OK) != 0; ++round) {
    for (size_t page = 0; page < pages; ++page) {
      uint64_t* at = words + page * kWords;
      for (size_t i = 0; i < kWords; i += kStep) {
        const uint64_t wanted = round == 1 ? 0 : word_of(page, round - 1, i);
        CHECK(at[i] == wanted, "page %zu, word %zu is %llx in round %llu", page, i,
              static_cast<unsigned long long>(at[i]), static_cast<unsigned long long>(round));
        at[i] = word_of(page, round, i);
      }
    }
    tell_verified(round);
  }
  state::pass();
}
