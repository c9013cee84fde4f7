// A token goes round the ranks: messages of changing size, from eager to rendezvous protocol, each
// with a checksum that every rank verifies and then renews.
#include <stdlib.h>

#include "mpi_common.h"

enum { kMaxWords = 1 << 15 };

static long words_of(long iteration) {
  return 2 + (long)(mix((uint64_t)iteration, 7) % (kMaxWords - 2));
}

static void fill(uint64_t* words, long count, uint64_t seed) {
  words[1] = seed;
  for (long i = 2; i < count; ++i) words[i] = mix(words[i - 1], (uint64_t)i);
  words[0] = checksum(words + 1, count - 1);
}

int main(int argc, char** argv) {
  const struct program me = begin(&argc, &argv, "ring");
  uint64_t* words = allocate(&me, kMaxWords * sizeof(uint64_t));
  const int next = (me.rank + 1) % me.ranks;
  const int previous = (me.rank + me.ranks - 1) % me.ranks;
  uint64_t state = mix(1, (uint64_t)me.rank);
  uint64_t token = 1;
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    const long count = words_of(iteration);
    if (me.rank == 0) {
      fill(words, count, mix(token, (uint64_t)iteration));
      if (me.ranks > 1) {
        MPI_Send(words, (int)count, MPI_UINT64_T, next, 1, MPI_COMM_WORLD);
      }
    }
    if (me.ranks > 1) {
      MPI_Status status;
      MPI_Recv(words, kMaxWords, MPI_UINT64_T, previous, 1, MPI_COMM_WORLD, &status);
      int got = 0;
      MPI_Get_count(&status, MPI_UINT64_T, &got);
      expect(&me, iteration, "words received", (uint64_t)count, (uint64_t)got);
    }
    expect(&me, iteration, "checksum", checksum(words + 1, count - 1), words[0]);
    state = mix(state, words[0]);
    if (me.rank == 0) {
      token = words[0];
    } else {
      fill(words, count, mix(words[0], (uint64_t)me.rank));
      MPI_Send(words, (int)count, MPI_UINT64_T, next, 1, MPI_COMM_WORLD);
    }
  }
  free(words);
  return finish(&me, state);
}
