// A token goes round the ranks: messages of changing size, from eager to rendezvous protocol, each
// with a checksum that every rank verifies and then renews.
//
//   ring ITERATIONS [DELAY_US [STOP_FILE [MIB]]]
//
// With a STOP_FILE it ends earlier, with the round in which rank 0 finds that file; its result is
// that of a run with so many ITERATIONS. MIB: so much memory of each rank is written at the start
// and has to be the same at the end.
#include <stdlib.h>
#include <unistd.h>

#include "mpi_common.h"

enum { kMaxWords = 1 << 15 };
/// Tags of the token: more rounds follow, or none.
enum { kGoesOn = 1, kLast = 2 };

static long words_of(long iteration) {
  return 2 + (long)(mix((uint64_t)iteration, 7) % (kMaxWords - 2));
}

static void fill(uint64_t* words, long count, uint64_t seed) {
  words[1] = seed;
  for (long i = 2; i < count; ++i) words[i] = mix(words[i - 1], (uint64_t)i);
  words[0] = checksum(words + 1, count - 1);
}

static uint64_t beside_word(const struct program* me, long index) {
  return mix((uint64_t)index, (uint64_t)me->rank + 11);
}

int main(int argc, char** argv) {
  struct program me = begin(&argc, &argv, "ring");
  const long beside_words = argc > 4 ? strtol(argv[4], NULL, 10) * (1 << 20) / 8 : 0;
  uint64_t* beside = allocate(&me, (size_t)beside_words * sizeof(uint64_t) + 1);
  for (long i = 0; i < beside_words; ++i) beside[i] = beside_word(&me, i);
  uint64_t* words = allocate(&me, kMaxWords * sizeof(uint64_t));
  const int next = (me.rank + 1) % me.ranks;
  const int previous = (me.rank + me.ranks - 1) % me.ranks;
  uint64_t state = mix(1, (uint64_t)me.rank);
  uint64_t token = 1;
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    const long count = words_of(iteration);
    int tag = kGoesOn;
    if (me.rank == 0) {
      if (me.file != NULL && access(me.file, F_OK) == 0) tag = kLast;
      fill(words, count, mix(token, (uint64_t)iteration));
      if (me.ranks > 1) {
        MPI_Send(words, (int)count, MPI_UINT64_T, next, tag, MPI_COMM_WORLD);
      }
    }
    if (me.ranks > 1) {
      MPI_Status status;
      MPI_Recv(words, kMaxWords, MPI_UINT64_T, previous, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
      tag = status.MPI_TAG;
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
      MPI_Send(words, (int)count, MPI_UINT64_T, next, tag, MPI_COMM_WORLD);
    }
    if (tag == kLast) me.iterations = iteration + 1;
  }
  for (long i = 0; i < beside_words; ++i) {
    expect(&me, i, "word beside", beside_word(&me, i), beside[i]);
  }
  free(beside);
  free(words);
  return finish(&me, state);
}
