// Connections made late: each rank listens, tells the others its address once, and then, for as
// long as it runs, connects to a listener by the address it was told at the beginning. After a
// restart elsewhere that address is another node's or nobody's; the program must not notice: it
// checks what getpeername(2), getsockname(2) and accept(2) say.
//
//   late_connect ITERATIONS [DELAY_US]
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/mpi/mpi_common.h"

enum { kMostRanks = 64 };

struct greeting {
  uint64_t number;
  int32_t from;
  uint32_t host;  // the client's, as its getsockname(2) has it
  uint32_t port;
};

static struct program me;
static struct sockaddr_in addresses[kMostRanks];

static _Noreturn void fail(const char* what, int with) {
  fprintf(stderr, "late_connect: rank %d, with rank %d: %s: %s\n", me.rank, with, what,
          strerror(errno));
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

static void same_address(long iteration, const char* what, const struct sockaddr_in* expected,
                         const struct sockaddr_in* found) {
  expect(&me, iteration, what, ntohl(expected->sin_addr.s_addr), ntohl(found->sin_addr.s_addr));
  expect(&me, iteration, what, ntohs(expected->sin_port), ntohs(found->sin_port));
}

static struct sockaddr_in own_address(void) {
  struct sockaddr_in address = {0};
  struct ifaddrs* all = NULL;
  if (getifaddrs(&all) != 0) fail("getifaddrs", me.rank);
  for (const struct ifaddrs* each = all; each != NULL; each = each->ifa_next) {
    if (each->ifa_addr == NULL || each->ifa_addr->sa_family != AF_INET) continue;
    memcpy(&address, each->ifa_addr, sizeof(address));
    if ((ntohl(address.sin_addr.s_addr) >> 24) != IN_LOOPBACKNET) break;
  }
  freeifaddrs(all);
  return address;
}

/// Answers whoever comes: the greeting, returned.
static void* serve(void* argument) {
  const int listener = *(const int*)argument;
  for (long i = 0;; ++i) {
    struct sockaddr_in client = {0};
    socklen_t length = sizeof(client);
    const int fd = accept4(listener, (struct sockaddr*)&client, &length, SOCK_CLOEXEC);
    if (fd < 0) fail("accept", me.rank);
    struct greeting greeting;
    const ssize_t n = recv(fd, &greeting, sizeof(greeting), MSG_WAITALL);
    if (n == 0) {  // rank itself, at the end
      close(fd);
      return NULL;
    }
    if (n != sizeof(greeting)) fail("recv of a greeting", -1);
    expect(&me, i, "address that accept tells", greeting.host, ntohl(client.sin_addr.s_addr));
    expect(&me, i, "port that accept tells", greeting.port, ntohs(client.sin_port));
    if (send(fd, &greeting, sizeof(greeting), MSG_NOSIGNAL) != sizeof(greeting)) {
      fail("send of an answer", greeting.from);
    }
    close(fd);
  }
}

static int connect_to(int rank) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket", rank);
  if (connect(fd, (const struct sockaddr*)&addresses[rank], sizeof(addresses[rank])) != 0) {
    fail("connect", rank);
  }
  return fd;
}

static void greet(int rank, long iteration) {
  const int fd = connect_to(rank);
  struct sockaddr_in name = {0};
  socklen_t length = sizeof(name);
  if (getpeername(fd, (struct sockaddr*)&name, &length) != 0) fail("getpeername", rank);
  same_address(iteration, "getpeername", &addresses[rank], &name);
  length = sizeof(name);
  if (getsockname(fd, (struct sockaddr*)&name, &length) != 0) fail("getsockname", rank);
  expect(&me, iteration, "own address", ntohl(addresses[me.rank].sin_addr.s_addr),
         ntohl(name.sin_addr.s_addr));
  const struct greeting mine = {mix((uint64_t)iteration, (uint64_t)me.rank), me.rank,
                                ntohl(name.sin_addr.s_addr), ntohs(name.sin_port)};
  struct greeting back = {0};
  if (send(fd, &mine, sizeof(mine), MSG_NOSIGNAL) != sizeof(mine)) fail("send", rank);
  if (recv(fd, &back, sizeof(back), MSG_WAITALL) != sizeof(back)) fail("recv", rank);
  expect(&me, iteration, "the answer", mine.number, back.number);
  close(fd);
}

int main(int argc, char** argv) {
  me = begin(&argc, &argv, "late_connect");
  if (me.ranks > kMostRanks) mismatch(&me, 0, "ranks", kMostRanks, (uint64_t)me.ranks);
  struct sockaddr_in mine = own_address();
  mine.sin_port = 0;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = sizeof(mine);
  if (listener < 0 || bind(listener, (const struct sockaddr*)&mine, sizeof(mine)) != 0 ||
      listen(listener, kMostRanks) != 0 ||
      getsockname(listener, (struct sockaddr*)&mine, &length) != 0) {
    fail("a listening socket", me.rank);
  }
  MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, addresses, sizeof(mine), MPI_BYTE, MPI_COMM_WORLD);
  pthread_t server;
  errno = pthread_create(&server, NULL, serve, &listener);
  if (errno != 0) fail("pthread_create", me.rank);
  uint64_t state = 1;
  for (long iteration = 0; iteration < me.iterations; ++iteration) {
    step(&me, iteration);
    greet((int)((me.rank + 1 + iteration % me.ranks) % me.ranks), iteration);
    struct sockaddr_in name = {0};
    length = sizeof(name);
    if (getsockname(listener, (struct sockaddr*)&name, &length) != 0) fail("getsockname", me.rank);
    same_address(iteration, "name of the listener", &mine, &name);
    state = mix(state, (uint64_t)iteration);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  close(connect_to(me.rank));
  pthread_join(server, NULL);
  close(listener);
  return finish(&me, state);
}
