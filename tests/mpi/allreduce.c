// Collectives whose results are known beforehand: sums in integers and in doubles that hold
// integers (exact in any order), maxima, a broadcast from a changing root, all-to-all.
#include <stdlib.h>

#include "mpi_common.h"

enum { kWords = 4096 };

/// What rank `rank` gives for word `i`; small enough for doubles to add up exactly.
static uint64_t given(long iteration, int rank, int i) {
  return mix((uint64_t)(iteration * 131 + rank), (uint64_t)i) >> 21;
}

struct buffers {
  uint64_t *mine, *all;
  double *mine_real, *all_real;
};

static void reduce(const struct program* me, const struct buffers* b, long iteration) {
  for (int i = 0; i < kWords; ++i) {
    b->mine[i] = given(iteration, me->rank, i);
    b->mine_real[i] = (double)b->mine[i];
  }
  MPI_Allreduce(b->mine, b->all, kWords, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
  MPI_Allreduce(b->mine_real, b->all_real, kWords, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  for (int i = 0; i < kWords; ++i) {
    uint64_t sum = 0;
    for (int rank = 0; rank < me->ranks; ++rank) sum += given(iteration, rank, i);
    expect(me, iteration, "integer sum", sum, b->all[i]);
    expect(me, iteration, "sum of doubles", sum, (uint64_t)b->all_real[i]);
  }
  MPI_Allreduce(b->mine, b->all, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
  uint64_t highest = 0;
  for (int rank = 0; rank < me->ranks; ++rank) {
    const uint64_t value = given(iteration, rank, 0);
    if (value > highest) highest = value;
  }
  expect(me, iteration, "maximum", highest, b->all[0]);
}

static uint64_t spread(const struct program* me, const struct buffers* b, long iteration) {
  const int root = (int)(iteration % me->ranks);
  if (me->rank == root) {
    for (int i = 0; i < kWords; ++i) b->mine[i] = given(iteration, root, i);
  }
  MPI_Bcast(b->mine, kWords, MPI_UINT64_T, root, MPI_COMM_WORLD);
  for (int i = 0; i < kWords; ++i)
    expect(me, iteration, "broadcast", given(iteration, root, i), b->mine[i]);
  const int block = kWords / me->ranks;
  const int words = block * me->ranks;
  for (int i = 0; i < words; ++i) b->mine[i] = given(iteration, me->rank, i);
  MPI_Alltoall(b->mine, block, MPI_UINT64_T, b->all, block, MPI_UINT64_T, MPI_COMM_WORLD);
  for (int i = 0; i < words; ++i) {
    expect(me, iteration, "all-to-all", given(iteration, i / block, me->rank * block + i % block),
           b->all[i]);
  }
  return checksum(b->all, words);
}

int main(int argc, char** argv) {
  const struct program me = begin(&argc, &argv, "allreduce");
  const struct buffers b = {
      allocate(&me, kWords * sizeof(uint64_t)), allocate(&me, kWords * sizeof(uint64_t)),
      allocate(&me, kWords * sizeof(double)), allocate(&me, kWords * sizeof(double))};
  uint64_t state = mix(2, (uint64_t)me.rank);
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    reduce(&me, &b, iteration);
    state = mix(state, spread(&me, &b, iteration));
  }
  free(b.mine);
  free(b.all);
  free(b.mine_real);
  free(b.all_real);
  return finish(&me, state);
}
