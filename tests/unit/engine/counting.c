// Counts in every word of an array, in order: at any instant a front part holds n and the rest n
// - 1. Says where the array is in the file `ready`, ends with 0 at the file `go`, and with 3 if a
// child was found that it never had.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kWords = 4 << 20, kLeftOut = 1 << 16 };

int main(void) {
  uint64_t* words = mmap(NULL, kWords * sizeof *words, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (words == MAP_FAILED) return 1;
  // The last part is not given to children by fork(2).
  if (madvise(words + kWords - kLeftOut, kLeftOut * sizeof *words, MADV_DONTFORK) != 0) return 1;
  FILE* ready = fopen("ready.part", "w");
  if (ready == NULL) return 1;
  fprintf(ready, "%lu %d\n", (unsigned long)words, kWords);
  fclose(ready);
  for (uint64_t n = 1;; ++n) {
    for (int i = 0; i < kWords; ++i) ((volatile uint64_t*)words)[i] = n;
    if (n == 1) rename("ready.part", "ready");
    if (waitpid(-1, NULL, WNOHANG | __WALL) != -1 || errno != ECHILD) return 3;
    if (access("go", F_OK) == 0) return 0;
  }
}
