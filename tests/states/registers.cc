// Values that live in registers alone - vector, mask, x87, control words, general ones - while asm
// loops count.
#include <cpuid.h>
#include <pthread.h>

#include <atomic>

#include "tests/states/state.h"

namespace {
std::atomic<long> rounds = 0;

struct Block {
  alignas(64) uint64_t lane[8];
};

// One round of a few milliseconds in which nothing but registers holds the values.
void round_avx512(uint64_t count) {
  const Block start{{1, 2, 3, 4, 5, 6, 7, 8}};
  const Block step{{3, 3, 3, 3, 3, 3, 3, 3}};
  Block out{};
  uint64_t mask = 0;
  asm volatile(
      "vmovdqu64 %[start],%%zmm20\n vmovdqu64 %[step],%%zmm31\n"
      "mov $0xa5,%%eax\n kmovw %%eax,%%k3\n mov %[count],%%rcx\n"
      "1: vpaddq %%zmm31,%%zmm20,%%zmm20\n dec %%rcx\n jnz 1b\n"
      "vmovdqu64 %%zmm20,%[out]\n kmovw %%k3,%%eax\n mov %%rax,%[mask]\n vzeroupper\n"
      : [out] "=m"(out), [mask] "=m"(mask)
      : [start] "m"(start), [step] "m"(step), [count] "r"(count)
      : "rax", "rcx", "cc", "memory");
  for (int i = 0; i < 8; i++) {
    CHECK(out.lane[i] == start.lane[i] + 3 * count, "zmm20 lane %d is %lx", i, out.lane[i]);
  }
  CHECK((mask & 0xffff) == 0xa5, "k3 is %lx", mask);
}

void round_avx2(uint64_t count) {
  const Block start{{11, 12, 13, 14, 0, 0, 0, 0}};
  const Block step{{5, 5, 5, 5, 0, 0, 0, 0}};
  Block out{};
  asm volatile(
      "vmovdqu %[start],%%ymm7\n vmovdqu %[step],%%ymm15\n mov %[count],%%rcx\n"
      "1: vpaddq %%ymm15,%%ymm7,%%ymm7\n dec %%rcx\n jnz 1b\n"
      "vmovdqu %%ymm7,%[out]\n vzeroupper\n"
      : [out] "=m"(out)
      : [start] "m"(start), [step] "m"(step), [count] "r"(count)
      : "rcx", "cc", "memory", "xmm7", "xmm15");
  for (int i = 0; i < 4; i++) {
    CHECK(out.lane[i] == start.lane[i] + 5 * count, "ymm7 lane %d is %lx", i, out.lane[i]);
  }
}

void round_scalar(uint64_t count) {
  double top = 0;
  double below = 0;
  uint64_t sum = 0;
  asm volatile(
      "fldl2e\n fldpi\n xor %%r13d,%%r13d\n mov $0x123456789,%%r15\n mov %[count],%%rcx\n"
      "1: add %%r15,%%r13\n dec %%rcx\n jnz 1b\n"
      "mov %%r13,%[sum]\n fstpl %[top]\n fstpl %[below]\n"
      : [top] "=m"(top), [below] "=m"(below), [sum] "=m"(sum)
      : [count] "r"(count)
      : "r13", "r15", "rcx", "cc", "memory");
  CHECK(top > 3.14159 && top < 3.1416, "st0 is %f", top);
  CHECK(below > 1.44269 && below < 1.4427, "st1 is %f", below);
  CHECK(sum == count * 0x123456789, "r13 is %lx", sum);
}

void count_in(void (*round)(uint64_t)) {
  // Round to zero in SSE and in x87, and 53 bits of precision: the control words are state too.
  const uint32_t mxcsr = 0x1f80 | (3U << 13);
  const uint16_t control = 0x0e7f;
  asm volatile("ldmxcsr %0\n fldcw %1" ::"m"(mxcsr), "m"(control));
  while (!state::go()) {
    round(20000000);
    uint32_t mxcsr_now = 0;
    uint16_t control_now = 0;
    asm volatile("stmxcsr %0\n fnstcw %1" : "=m"(mxcsr_now), "=m"(control_now));
    CHECK((mxcsr_now & 0xffc0) == (mxcsr & 0xffc0), "MXCSR is %x", mxcsr_now);
    CHECK(control_now == control, "the x87 control word is %x", control_now);
    rounds++;
  }
  rounds++;
}
}  // namespace

int main() {
  __builtin_cpu_init();
  std::thread scalar(count_in, round_scalar);
  std::thread vector;
  if (__builtin_cpu_supports("avx512f")) {
    vector = std::thread(count_in, round_avx512);
  } else if (__builtin_cpu_supports("avx2")) {
    vector = std::thread(count_in, round_avx2);
  }
  while (rounds < 4) state::sleep_ms(5);
  state::hold();
  scalar.join();
  if (vector.joinable()) vector.join();
  state::pass();
}
