// Collective MPI-IO: every rank writes its share of each record in blocks that interleave with the
// others', then reads what another rank wrote. At the end the whole file is read by every rank and
// has to be what the iterations wrote. FILE (third argument) is made anew and stays.
#include <stdlib.h>

#include "mpi_common.h"

enum { kBlockWords = 256, kBlocks = 16, kRecords = 8 };

static const int kShareWords = kBlockWords * kBlocks;

static uint64_t word_of(long iteration, int rank, int i) {
  return mix((uint64_t)(iteration * 257 + rank), (uint64_t)i);
}

/// Words of one record: the shares of all ranks.
static MPI_Offset record_bytes(const struct program* me) {
  return (MPI_Offset)me->ranks * kShareWords * (MPI_Offset)sizeof(uint64_t);
}

/// The file as `rank` sees it: its own blocks of every record, one after the other.
static void look_as(const struct program* me, MPI_File file, int rank) {
  MPI_Datatype blocks;
  MPI_Type_vector(kBlocks, kBlockWords, kBlockWords * me->ranks, MPI_UINT64_T, &blocks);
  MPI_Datatype share;
  MPI_Type_create_resized(blocks, 0, (MPI_Aint)record_bytes(me), &share);
  MPI_Type_commit(&share);
  const MPI_Offset begin_at = (MPI_Offset)rank * kBlockWords * (MPI_Offset)sizeof(uint64_t);
  check_mpi(me, MPI_File_set_view(file, begin_at, MPI_UINT64_T, share, "native", MPI_INFO_NULL),
            "set_view");
  MPI_Type_free(&blocks);
  MPI_Type_free(&share);
}

static void write_record(const struct program* me, MPI_File file, uint64_t* words, long iteration) {
  for (int i = 0; i < kShareWords; ++i) words[i] = word_of(iteration, me->rank, i);
  look_as(me, file, me->rank);
  MPI_Status status;
  check_mpi(me,
            MPI_File_write_at_all(file, (MPI_Offset)(iteration % kRecords) * kShareWords, words,
                                  kShareWords, MPI_UINT64_T, &status),
            "MPI_File_write_at_all");
  int wrote = 0;
  MPI_Get_count(&status, MPI_UINT64_T, &wrote);
  expect(me, iteration, "words written", (uint64_t)kShareWords, (uint64_t)wrote);
  check_mpi(me, MPI_File_sync(file), "MPI_File_sync");
}

static uint64_t read_share(const struct program* me, MPI_File file, uint64_t* words, long iteration,
                           int rank) {
  look_as(me, file, rank);
  MPI_Status status;
  check_mpi(me,
            MPI_File_read_at_all(file, (MPI_Offset)(iteration % kRecords) * kShareWords, words,
                                 kShareWords, MPI_UINT64_T, &status),
            "MPI_File_read_at_all");
  int got = 0;
  MPI_Get_count(&status, MPI_UINT64_T, &got);
  expect(me, iteration, "words read", (uint64_t)kShareWords, (uint64_t)got);
  for (int i = 0; i < kShareWords; ++i)
    expect(me, iteration, "word read", word_of(iteration, rank, i), words[i]);
  return checksum(words, kShareWords);
}

int main(int argc, char** argv) {
  const struct program me = begin(&argc, &argv, "mpi_io");
  if (me.file == NULL) {
    if (me.rank == 0) fprintf(stderr, "mpi_io ITERATIONS DELAY_US FILE\n");
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  uint64_t* words = allocate(&me, (size_t)kShareWords * sizeof(uint64_t));
  MPI_File file;
  check_mpi(
      &me,
      MPI_File_open(MPI_COMM_WORLD, me.file, MPI_MODE_RDWR | MPI_MODE_CREATE, MPI_INFO_NULL, &file),
      "MPI_File_open");
  check_mpi(&me, MPI_File_set_size(file, 0), "MPI_File_set_size");
  uint64_t state = mix(5, (uint64_t)me.rank);
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    write_record(&me, file, words, iteration);
    const int other = (int)((me.rank + 1 + iteration) % me.ranks);
    state = mix(state, read_share(&me, file, words, iteration, other));
  }
  const long first = me.iterations > kRecords ? me.iterations - kRecords : 0;
  for (long iteration = first; iteration < me.iterations; ++iteration) {
    for (int rank = 0; rank < me.ranks; ++rank) {
      state = mix(state, read_share(&me, file, words, iteration, rank));
    }
  }
  check_mpi(&me, MPI_File_close(&file), "MPI_File_close");
  free(words);
  return finish(&me, state);
}
