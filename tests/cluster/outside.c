// Rank 0 holds a connection to a server that is no part of the job and asks it a number after the
// other; the ranks go on with their own exchange meanwhile.
//
//   outside ITERATIONS DELAY_US HOST PORT
//
// The server answers each 64-bit number with the same number. When the connection is lost the
// program tells the reason, "outside: the connection ended: ...", and goes on without it.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/mpi/mpi_common.h"

static int connect_to(const struct program* me, const char* host, const char* port) {
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (inet_pton(AF_INET, host, &server.sin_addr) != 1 || fd < 0 ||
      connect(fd, (const struct sockaddr*)&server, sizeof(server)) != 0) {
    mismatch(me, 0, "connecting to the server", 0, (uint64_t)errno);
  }
  return fd;
}

/// 0, or why the connection is lost.
static int ask(const struct program* me, int fd, uint64_t number, long iteration) {
  uint64_t answer = 0;
  if (send(fd, &number, sizeof(number), MSG_NOSIGNAL) != sizeof(number)) return errno;
  const ssize_t n = recv(fd, &answer, sizeof(answer), MSG_WAITALL);
  if (n < 0) return errno;
  if (n != sizeof(answer)) return EPIPE;
  expect(me, iteration, "the server's answer", number, answer);
  return 0;
}

int main(int argc, char** argv) {
  int count = 3;
  const struct program me = begin(&count, &argv, "outside");
  if (argc != 5) mismatch(&me, 0, "arguments", 4, (uint64_t)(argc - 1));
  int fd = me.rank == 0 ? connect_to(&me, argv[3], argv[4]) : -1;
  uint64_t state = 1;
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    const int reason = fd < 0 ? 0 : ask(&me, fd, mix(state, (uint64_t)iteration), iteration);
    if (reason != 0) {
      printf("outside: the connection ended: %s\n", strerror(reason));
      close(fd);
      fd = -1;
    }
    state = mix(state, sum_of_all(mix((uint64_t)iteration, (uint64_t)me.rank)));
  }
  if (fd >= 0) {
    printf("outside: the connection held to the end\n");
    close(fd);
  }
  return finish(&me, state);
}
