#include "mpi_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kMostBetweenLines = 100 };

static long number_or_exit(const char* text, const char* what) {
  char* end = NULL;
  errno = 0;
  const long value = strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < 0) {
    fprintf(stderr, "%s: not a number: %s\n", what, text);
    exit(2);
  }
  return value;
}

struct program begin(int* argc, char*** argv, const char* name) {
  struct program program = {.name = name, .iterations = 100};
  MPI_Init(argc, argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &program.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &program.ranks);
  if (*argc > 1) program.iterations = number_or_exit((*argv)[1], "ITERATIONS");
  if (*argc > 2) program.delay_us = number_or_exit((*argv)[2], "DELAY_US");
  if (*argc > 3) program.file = (*argv)[3];
  setvbuf(stdout, NULL, _IOLBF, 0);
  return program;
}

void step(const struct program* program, long iteration) {
  long every = program->iterations >= 20 ? program->iterations / 20 : 1;
  if (every > kMostBetweenLines) every = kMostBetweenLines;
  if (program->rank == 0 && iteration % every == 0) {
    printf("%s: iteration %ld of %ld\n", program->name, iteration, program->iterations);
  }
  if (program->delay_us == 0) return;
  const struct timespec delay = {program->delay_us / 1000000, program->delay_us % 1000000 * 1000};
  // No signal handler is set here: an interrupted sleep is a freeze that the program could see.
  if (nanosleep(&delay, NULL) != 0) mismatch(program, iteration, "nanosleep", 0, (uint64_t)errno);
}

int finish(const struct program* program, uint64_t result) {
  const uint64_t all = sum_of_all(result);
  if (program->rank == 0) {
    printf("%s: ranks %d iterations %ld result %016llx\n", program->name, program->ranks,
           program->iterations, (unsigned long long)all);
    fflush(stdout);
  }
  MPI_Finalize();
  return 0;
}

_Noreturn void mismatch(const struct program* program, long iteration, const char* what,
                        uint64_t expected, uint64_t found) {
  fprintf(stderr, "%s: rank %d iteration %ld: %s: expected %llu, found %llu\n", program->name,
          program->rank, iteration, what, (unsigned long long)expected, (unsigned long long)found);
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

void expect(const struct program* program, long iteration, const char* what, uint64_t expected,
            uint64_t found) {
  if (expected != found) mismatch(program, iteration, what, expected, found);
}

void check_mpi(const struct program* program, int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  fprintf(stderr, "%s: rank %d: %s: %s\n", program->name, program->rank, call, text);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

void* allocate(const struct program* program, size_t bytes) {
  void* memory = calloc(1, bytes);
  if (memory == NULL) mismatch(program, 0, "calloc", bytes, 0);
  return memory;
}

uint64_t add_mod(uint64_t a, uint64_t b) { return (a % PRIME + b % PRIME) % PRIME; }

uint64_t multiply_mod(uint64_t a, uint64_t b) {
  return (uint64_t)((unsigned __int128)(a % PRIME) * (b % PRIME) % PRIME);
}

uint64_t mix(uint64_t a, uint64_t b) {
  // The finalizer of splitmix64 over both.
  uint64_t z = a * 0x9e3779b97f4a7c15ULL + b + 0x632be59bd9b4e019ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return (z ^ (z >> 31)) % PRIME;
}

uint64_t checksum(const uint64_t* words, long count) {
  uint64_t sum = (uint64_t)count;
  for (long i = 0; i < count; ++i) sum = mix(sum, words[i]);
  return sum;
}

static void add_residues(void* in, void* inout, int* count, MPI_Datatype* type) {
  (void)type;
  const uint64_t* from = in;
  uint64_t* to = inout;
  for (int i = 0; i < *count; ++i) to[i] = add_mod(to[i], from[i]);
}

uint64_t sum_of_all(uint64_t mine) {
  MPI_Op operation;
  uint64_t all = 0;
  MPI_Op_create(add_residues, 1, &operation);
  MPI_Allreduce(&mine, &all, 1, MPI_UINT64_T, operation, MPI_COMM_WORLD);
  MPI_Op_free(&operation);
  return all;
}
