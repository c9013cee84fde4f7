// Windows: put, get and accumulate between fences, then updates under locks, each verified by the
// window's owner.
#include <stdlib.h>

#include "mpi_common.h"

enum { kWords = 2048, kSums = 64 };

// The window of each rank: a block put by the left neighbour, sums that all add to, a counter that
// all count up under a lock, and a ticket drawn by MPI_Fetch_and_op.
struct window {
  uint64_t block[kWords];
  uint64_t sums[kSums];
  uint64_t counter;
  uint64_t tickets;
};

struct state {
  MPI_Win win;
  struct window* mine;
  uint64_t* put;  // origin buffers, kWords each
  uint64_t* got;
};

static uint64_t put_word(long iteration, int rank, int i) {
  return mix((uint64_t)(iteration * 67 + rank), (uint64_t)i);
}

static MPI_Aint at(size_t offset) { return (MPI_Aint)offset; }

static void between_fences(const struct program* me, struct state* s, long iteration) {
  const int right = (me->rank + 1) % me->ranks;
  const int left = (me->rank + me->ranks - 1) % me->ranks;
  uint64_t add[kSums];
  for (int i = 0; i < kWords; ++i) s->put[i] = put_word(iteration, me->rank, i);
  for (int i = 0; i < kSums; ++i) add[i] = (uint64_t)me->rank + (uint64_t)i;
  MPI_Win_fence(0, s->win);
  MPI_Put(s->put, kWords, MPI_UINT64_T, right, at(offsetof(struct window, block)), kWords,
          MPI_UINT64_T, s->win);
  for (int target = 0; target < me->ranks; ++target) {
    MPI_Accumulate(add, kSums, MPI_UINT64_T, target, at(offsetof(struct window, sums)), kSums,
                   MPI_UINT64_T, MPI_SUM, s->win);
  }
  MPI_Win_fence(0, s->win);
  for (int i = 0; i < kWords; ++i)
    expect(me, iteration, "put", put_word(iteration, left, i), s->mine->block[i]);
  const uint64_t ranks = (uint64_t)me->ranks;
  for (int i = 0; i < kSums; ++i) {
    const uint64_t per_iteration = ranks * (ranks - 1) / 2 + ranks * (uint64_t)i;
    expect(me, iteration, "accumulate", per_iteration * (uint64_t)(iteration + 1),
           s->mine->sums[i]);
  }
  MPI_Win_fence(0, s->win);
  MPI_Get(s->got, kWords, MPI_UINT64_T, right, at(offsetof(struct window, block)), kWords,
          MPI_UINT64_T, s->win);
  MPI_Win_fence(0, s->win);
  for (int i = 0; i < kWords; ++i) expect(me, iteration, "get", s->put[i], s->got[i]);
}

static void under_locks(const struct program* me, struct state* s, long iteration) {
  for (int target = 0; target < me->ranks; ++target) {
    uint64_t counter = 0;
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, target, 0, s->win);
    MPI_Get(&counter, 1, MPI_UINT64_T, target, at(offsetof(struct window, counter)), 1,
            MPI_UINT64_T, s->win);
    MPI_Win_flush(target, s->win);
    counter += (uint64_t)me->rank + 1;
    MPI_Put(&counter, 1, MPI_UINT64_T, target, at(offsetof(struct window, counter)), 1,
            MPI_UINT64_T, s->win);
    MPI_Win_unlock(target, s->win);
  }
  const uint64_t one = 1;
  uint64_t ticket = 0;
  MPI_Win_lock(MPI_LOCK_SHARED, 0, 0, s->win);
  MPI_Fetch_and_op(&one, &ticket, MPI_UINT64_T, 0, at(offsetof(struct window, tickets)), MPI_SUM,
                   s->win);
  MPI_Win_unlock(0, s->win);
  const uint64_t ranks = (uint64_t)me->ranks;
  const uint64_t round = ranks * (uint64_t)iteration;
  if (ticket < round || ticket >= round + ranks) mismatch(me, iteration, "ticket", round, ticket);
  MPI_Barrier(MPI_COMM_WORLD);
  uint64_t counter = 0;
  MPI_Win_lock(MPI_LOCK_SHARED, me->rank, 0, s->win);
  MPI_Get(&counter, 1, MPI_UINT64_T, me->rank, at(offsetof(struct window, counter)), 1,
          MPI_UINT64_T, s->win);
  MPI_Win_unlock(me->rank, s->win);
  expect(me, iteration, "counter under locks", ranks * (ranks + 1) / 2 * (uint64_t)(iteration + 1),
         counter);
  MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char** argv) {
  const struct program me = begin(&argc, &argv, "one_sided");
  struct state s = {0};
  s.put = allocate(&me, kWords * sizeof(uint64_t));
  s.got = allocate(&me, kWords * sizeof(uint64_t));
  MPI_Win_allocate(sizeof(struct window), 1, MPI_INFO_NULL, MPI_COMM_WORLD, &s.mine, &s.win);
  MPI_Win_fence(0, s.win);
  *s.mine = (struct window){0};
  MPI_Win_fence(0, s.win);
  uint64_t state = mix(4, (uint64_t)me.rank);
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    between_fences(&me, &s, iteration);
    under_locks(&me, &s, iteration);
    state = mix(state, checksum(s.mine->block, kWords));
  }
  MPI_Win_free(&s.win);
  free(s.put);
  free(s.got);
  return finish(&me, state);
}
