// A periodic grid of residues, cut into tiles; each cell becomes a weighted sum of itself and its
// neighbours. The sum over all cells grows by a known factor each time: that is checked, and every
// halo carries a checksum. The result is the same for every number of ranks.
#include <stdlib.h>

#include "mpi_common.h"

enum { kSide = 96, kCheckEvery = 8 };
// Words of one message: a checksum and a side of a tile.
static const long kLine = kSide + 1;
static const uint64_t kWeights[5] = {3, 5, 7, 11, 13};  // self, north, south, west, east

struct grid {
  MPI_Comm comm;
  int rows, columns;            // of the tile
  int first_row, first_column;  // its place in the whole
  int north, south, west, east;
  uint64_t *cells, *next;  // (rows + 2) x (columns + 2), with halos
  uint64_t *send, *receive;
};

static long place(const struct grid* grid, int row, int column) {
  return (long)row * (grid->columns + 2) + column;
}

/// A residue of its own for each place of the whole grid.
static uint64_t start_of(long row, long column) { return mix((uint64_t)row, (uint64_t)column); }

static struct grid make_grid(const struct program* me) {
  struct grid grid = {0};
  int tiles[2] = {0, 0};
  const int periodic[2] = {1, 1};
  int mine[2] = {0, 0};
  int rank = 0;
  MPI_Dims_create(me->ranks, 2, tiles);
  MPI_Cart_create(MPI_COMM_WORLD, 2, tiles, periodic, 0, &grid.comm);
  MPI_Comm_rank(grid.comm, &rank);
  MPI_Cart_coords(grid.comm, rank, 2, mine);
  MPI_Cart_shift(grid.comm, 0, 1, &grid.north, &grid.south);
  MPI_Cart_shift(grid.comm, 1, 1, &grid.west, &grid.east);
  grid.first_row = mine[0] * kSide / tiles[0];
  grid.rows = (mine[0] + 1) * kSide / tiles[0] - grid.first_row;
  grid.first_column = mine[1] * kSide / tiles[1];
  grid.columns = (mine[1] + 1) * kSide / tiles[1] - grid.first_column;
  const size_t bytes = (size_t)(grid.rows + 2) * (size_t)(grid.columns + 2) * sizeof(uint64_t);
  grid.cells = allocate(me, bytes);
  grid.next = allocate(me, bytes);
  grid.send = allocate(me, 4 * (size_t)kLine * sizeof(uint64_t));
  grid.receive = allocate(me, 4 * (size_t)kLine * sizeof(uint64_t));
  for (int row = 1; row <= grid.rows; ++row) {
    for (int column = 1; column <= grid.columns; ++column) {
      grid.cells[place(&grid, row, column)] =
          start_of(grid.first_row + row, grid.first_column + column);
    }
  }
  return grid;
}

/// A line of cells from (row, column), `count` long, going right or down.
struct line {
  int row, column, count, down;
};

static uint64_t* cell_of(const struct grid* grid, struct line line, int i) {
  return grid->cells + (line.down ? place(grid, line.row + i, line.column)
                                  : place(grid, line.row, line.column + i));
}

static void exchange(const struct program* me, struct grid* grid, long iteration) {
  const struct line edges[4] = {{1, 1, grid->columns, 0},
                                {grid->rows, 1, grid->columns, 0},
                                {1, 1, grid->rows, 1},
                                {1, grid->columns, grid->rows, 1}};
  const struct line halos[4] = {{0, 1, grid->columns, 0},
                                {grid->rows + 1, 1, grid->columns, 0},
                                {1, 0, grid->rows, 1},
                                {1, grid->columns + 1, grid->rows, 1}};
  const int peers[4] = {grid->north, grid->south, grid->west, grid->east};
  MPI_Request requests[8];
  for (int side = 0; side < 4; ++side) {
    // What I get on one side was sent towards the opposite one: tags are of the sender's side.
    MPI_Irecv(grid->receive + side * kLine, halos[side].count + 1, MPI_UINT64_T, peers[side],
              side ^ 1, grid->comm, &requests[side]);
  }
  for (int side = 0; side < 4; ++side) {
    uint64_t* out = grid->send + side * kLine;
    for (int i = 0; i < edges[side].count; ++i) out[i + 1] = *cell_of(grid, edges[side], i);
    out[0] = checksum(out + 1, edges[side].count);
    MPI_Isend(out, edges[side].count + 1, MPI_UINT64_T, peers[side], side, grid->comm,
              &requests[4 + side]);
  }
  MPI_Waitall(8, requests, MPI_STATUSES_IGNORE);
  for (int side = 0; side < 4; ++side) {
    const uint64_t* in = grid->receive + side * kLine;
    expect(me, iteration, "checksum of a halo", checksum(in + 1, halos[side].count), in[0]);
    for (int i = 0; i < halos[side].count; ++i) *cell_of(grid, halos[side], i) = in[i + 1];
  }
}

static void update(struct grid* grid) {
  for (int row = 1; row <= grid->rows; ++row) {
    for (int column = 1; column <= grid->columns; ++column) {
      const uint64_t around[5] = {
          grid->cells[place(grid, row, column)], grid->cells[place(grid, row - 1, column)],
          grid->cells[place(grid, row + 1, column)], grid->cells[place(grid, row, column - 1)],
          grid->cells[place(grid, row, column + 1)]};
      unsigned __int128 sum = 0;
      for (int i = 0; i < 5; ++i) sum += (unsigned __int128)around[i] * kWeights[i];
      grid->next[place(grid, row, column)] = (uint64_t)(sum % PRIME);
    }
  }
  uint64_t* const old = grid->cells;
  grid->cells = grid->next;
  grid->next = old;
}

static uint64_t sum_of_cells(const struct grid* grid, int by_place) {
  uint64_t sum = 0;
  for (int row = 1; row <= grid->rows; ++row) {
    for (int column = 1; column <= grid->columns; ++column) {
      uint64_t cell = grid->cells[place(grid, row, column)];
      if (by_place) cell = mix(cell, start_of(grid->first_row + row, grid->first_column + column));
      sum = add_mod(sum, cell);
    }
  }
  return sum;
}

int main(int argc, char** argv) {
  const struct program me = begin(&argc, &argv, "halo");
  struct grid grid = make_grid(&me);
  uint64_t expected = sum_of_all(sum_of_cells(&grid, 0));
  uint64_t factor = 0;
  for (int i = 0; i < 5; ++i) factor += kWeights[i];
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    exchange(&me, &grid, iteration);
    update(&grid);
    expected = multiply_mod(expected, factor);
    if (iteration % kCheckEvery == 0 || iteration + 1 == me.iterations) {
      expect(&me, iteration, "sum of all cells", expected, sum_of_all(sum_of_cells(&grid, 0)));
    }
  }
  const uint64_t result = sum_of_cells(&grid, 1);
  free(grid.cells);
  free(grid.next);
  free(grid.send);
  free(grid.receive);
  MPI_Comm_free(&grid.comm);
  return finish(&me, result);
}
