// What the MPI programs share: arguments, progress, arithmetic whose results do not depend on order
// or timing. One thread per process.
#pragma once

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>

// A prime below 2^61: sums and products of residues are exact and independent of the order they
// come in.
#define PRIME ((uint64_t)2305843009213693951ULL)

struct program {
  const char* name;
  int rank;
  int ranks;
  long iterations;
  long delay_us;  ///< slept in every iteration
  const char* file;
};

/// MPI_Init and the command line: ITERATIONS [DELAY_US [FILE]].
struct program begin(int* argc, char*** argv, const char* name);

/// Call once in every iteration: sleeps, and tells on rank 0, twenty times in a run and at least
/// every 100 iterations, how far it is.
void step(const struct program* program, long iteration);

/// Puts the ranks' results together, prints the result line on rank 0, ends MPI. The exit status.
int finish(const struct program* program, uint64_t result);

/// Says what is wrong and ends the job with status 1.
_Noreturn void mismatch(const struct program* program, long iteration, const char* what,
                        uint64_t expected, uint64_t found);

/// Ends the job unless found == expected.
void expect(const struct program* program, long iteration, const char* what, uint64_t expected,
            uint64_t found);

/// Fails with the words of MPI when a call did.
void check_mpi(const struct program* program, int status, const char* call);

/// Allocates or ends the job.
void* allocate(const struct program* program, size_t bytes);

uint64_t add_mod(uint64_t a, uint64_t b);
uint64_t multiply_mod(uint64_t a, uint64_t b);
/// A well-mixed residue of two numbers.
uint64_t mix(uint64_t a, uint64_t b);
/// Of `count` words, sensitive to their places.
uint64_t checksum(const uint64_t* words, long count);
/// Sum of every rank's residue.
uint64_t sum_of_all(uint64_t mine);
