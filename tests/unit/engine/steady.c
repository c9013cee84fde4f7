// Computes in registers what it knows from before, with a signal mask of its own, until the file
// `go` is there: ends with 0 then, with 3 as soon as a result or the mask is not what it was.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static uint64_t rounds(uint64_t a) {
  uint64_t b = a ^ 0x9e3779b97f4a7c15U;
  uint64_t c = 1;
  uint64_t d = 2;
  for (int i = 0; i < 200000; ++i) {
    a += b ^ (c << 7);
    b ^= d + (a >> 9);
    c += a * 3;
    d ^= b + (c << 3);
  }
  return a ^ b ^ c ^ d;
}

int main(void) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  sigaddset(&mask, SIGWINCH);
  if (sigprocmask(SIG_SETMASK, &mask, NULL) != 0) return 1;
  volatile uint64_t seed = 42;
  const uint64_t expected = rounds(seed);
  FILE* ready = fopen("ready", "w");
  if (ready == NULL) return 1;
  fclose(ready);
  while (access("go", F_OK) != 0) {
    if (rounds(seed) != expected) return 3;
    if (sigprocmask(SIG_SETMASK, NULL, &mask) != 0) return 1;
    for (int signo = 1; signo < 32; ++signo) {
      if (sigismember(&mask, signo) != (signo == SIGUSR2 || signo == SIGWINCH)) return 3;
    }
  }
  return 0;
}
