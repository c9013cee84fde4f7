// Ways for a rank to end: ends HOW, done by the last rank, while the others wait to be ended. They
// wait outside of MPI: what Open MPI makes of a connection that was closed is not in question here.
//   abort N    MPI_Abort(N)            signal N   raise(N) after MPI_Init
//   exit N     exit without finalize   after N    finalize, then exit(N + rank), all ranks
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi_common.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const char* how = argv[1];
  const int value = atoi(argv[2]);
  int rank = 0;
  int ranks = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (strcmp(how, "after") == 0) {
    MPI_Finalize();
    return value + rank;
  }
  if (rank == ranks - 1) {
    if (strcmp(how, "abort") == 0) MPI_Abort(MPI_COMM_WORLD, value);
    if (strcmp(how, "signal") == 0) {
      signal(value, SIG_DFL);
      raise(value);
    }
    if (strcmp(how, "exit") == 0) _Exit(value);
  }
  for (;;) pause();
}
