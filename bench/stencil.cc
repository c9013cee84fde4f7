// A program bound by memory, for scripts/bench: bench-stencil MIB SWEEPS
//
// Two threads sweep a seven-point stencil over a cube, from one half of MIB mebibytes to the other
// and back, SWEEPS times. After each sweep it says "sweep N SECONDS": seconds of its own clock
// since the first began.
#include <sys/mman.h>

#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Cube {
  size_t side;
  std::vector<double> values;
  double& at(size_t x, size_t y, size_t z) { return values[(z * side + y) * side + x]; }
};

void sweep(Cube& from, Cube& to, size_t first, size_t last) {
  const size_t side = from.side;
  for (size_t z = first; z < last; ++z) {
    for (size_t y = 1; y + 1 < side; ++y) {
      const double* here = &from.at(0, y, z);
      const double* north = &from.at(0, y - 1, z);
      const double* south = &from.at(0, y + 1, z);
      const double* above = &from.at(0, y, z - 1);
      const double* below = &from.at(0, y, z + 1);
      double* out = &to.at(0, y, z);
      for (size_t x = 1; x + 1 < side; ++x) {
        out[x] = 0.4 * here[x] +
                 0.1 * (here[x - 1] + here[x + 1] + north[x] + south[x] + above[x] + below[x]);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("bench-stencil MIB SWEEPS\n", stderr);
    return 2;
  }
  const double bytes = static_cast<double>(std::strtoull(argv[1], nullptr, 10) << 20U);
  const int sweeps = std::atoi(argv[2]);
  const auto side = static_cast<size_t>(std::cbrt(bytes / 2 / sizeof(double)));
  Cube one{side, std::vector<double>(side * side * side, 1.0)};
  Cube two = one;
  one.at(side / 2, side / 2, side / 2) = 1e6;
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  const auto start = Clock::now();
  int done = 0;
  Cube* from = &one;
  Cube* to = &two;
  std::barrier both(2, [&]() noexcept {
    std::swap(from, to);
    std::printf("sweep %d %.6f\n", ++done,
                std::chrono::duration<double>(Clock::now() - start).count());
  });
  const auto work = [&](size_t first, size_t last) {
    for (int i = 0; i < sweeps; ++i) {
      sweep(*from, *to, first, last);
      both.arrive_and_wait();
    }
  };
  std::thread other(work, side / 2, side - 1);
  work(1, side / 2);
  other.join();
  return 0;
}
