// Numbered words both ways, as fast as they go, over several TCP connections to a rank of another
// pod, IPv4 and IPv6. Every word is checked at the receiver: one lost, doubled or out of order ends
// the job with status 1.
//
//   byte_stream CONNECTIONS STOP_FILE
//
// Rank r speaks with rank r +- ranks/2, CONNECTIONS connections for each pair. Even connections
// block in send(2) and recv(2), odd ones are driven by poll(2). Rank 0 tells four times a second
// what it has received. Every receiver tells when nothing came for a while, and for two seconds
// after that also of short gaps: how long, and when (CLOCK_REALTIME) it ended. Once STOP_FILE is
// there each side ends its streams and both compare what was sent with what came.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/mpi/mpi_common.h"

enum { kMostConnections = 64, kWords = 8192, kTick_ms = 50 };
static const double kSilenceSeconds = 0.3;
static const double kShortGapSeconds = 0.01;
static const double kAttentiveSeconds = 2;

struct stream {
  int number;
  int fd;
  uint64_t sent;  // words; only its own thread writes these two
  _Atomic uint64_t received;
  double last;             // when something came, s
  double attentive_until;  // short gaps are told
  uint64_t out[kWords], in[kWords];
};

static struct program me;
static int peer;
static const char* stop_file;
static struct stream* streams;
static int stream_count;

static _Noreturn void fail(const struct stream* stream, const char* what) {
  fprintf(stderr, "byte_stream: rank %d connection %d: %s: %s\n", me.rank, stream->number, what,
          strerror(errno));
  MPI_Abort(MPI_COMM_WORLD, 1);
  abort();
}

/// The word with this number in the stream that `sender` sends over a connection.
static uint64_t word_of(int sender, int connection, uint64_t number) {
  return number * 0x9e3779b97f4a7c15ULL + mix((uint64_t)sender, (uint64_t)connection);
}

static int stopping(void) { return access(stop_file, F_OK) == 0; }

static void fill(struct stream* stream) {
  for (uint64_t i = 0; i < kWords; ++i) {
    stream->out[i] = word_of(me.rank, stream->number, stream->sent + i);
  }
}

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/// Tells of a silence that has just ended. Its end is told in the one clock that all nodes and pods
/// of a machine share.
static void note_silence(struct stream* stream) {
  const double now = seconds_of(CLOCK_MONOTONIC);
  const double silence = now - stream->last;
  if (stream->last != 0 &&
      silence > (now < stream->attentive_until ? kShortGapSeconds : kSilenceSeconds)) {
    printf("byte_stream: rank %d connection %d: silent for %.1f ms until %.6f\n", me.rank,
           stream->number, 1e3 * silence, seconds_of(CLOCK_REALTIME));
    if (silence > kSilenceSeconds) stream->attentive_until = now + kAttentiveSeconds;
  }
  stream->last = now;
}

/// Checks the whole words among the first `bytes` of in[]. What is left of a last, incomplete one
/// goes to the front; its size.
static size_t take(struct stream* stream, size_t bytes) {
  note_silence(stream);
  const size_t words = bytes / sizeof(uint64_t);
  const uint64_t first = atomic_load_explicit(&stream->received, memory_order_relaxed);
  for (size_t i = 0; i < words; ++i) {
    const uint64_t expected = word_of(peer, stream->number, first + i);
    if (stream->in[i] != expected) {
      fprintf(stderr, "byte_stream: connection %d: word %llu is not the next one\n", stream->number,
              (unsigned long long)first + i);
      expect(&me, (long)(first + i), "word", expected, stream->in[i]);
    }
  }
  atomic_store_explicit(&stream->received, first + words, memory_order_relaxed);
  const size_t rest = bytes % sizeof(uint64_t);
  memmove(stream->in, (const char*)stream->in + bytes - rest, rest);
  return rest;
}

static void end_of_stream(const struct stream* stream, size_t rest) {
  errno = 0;
  if (rest != 0) fail(stream, "the stream ends within a word");
}

static void* send_blocking(void* argument) {
  struct stream* stream = argument;
  while (!stopping()) {
    fill(stream);
    size_t done = 0;
    while (done < sizeof(stream->out)) {
      const ssize_t n = send(stream->fd, (const char*)stream->out + done,
                             sizeof(stream->out) - done, MSG_NOSIGNAL);
      if (n <= 0) fail(stream, "send");
      done += (size_t)n;
    }
    stream->sent += kWords;
  }
  if (shutdown(stream->fd, SHUT_WR) != 0) fail(stream, "shutdown");
  return NULL;
}

static void* receive_blocking(void* argument) {
  struct stream* stream = argument;
  size_t rest = 0;
  for (;;) {
    const ssize_t n = recv(stream->fd, (char*)stream->in + rest, sizeof(stream->in) - rest, 0);
    if (n < 0) fail(stream, "recv");
    if (n == 0) break;
    rest = take(stream, rest + (size_t)n);
  }
  end_of_stream(stream, rest);
  return NULL;
}

/// Both ways in one thread.
static void* exchange_polled(void* argument) {
  struct stream* stream = argument;
  size_t rest = 0;
  size_t done = 0;
  int sending = 1;
  int receiving = 1;
  fill(stream);
  while (sending || receiving) {
    struct pollfd entry = {.fd = stream->fd,
                           .events = (short)((sending ? POLLOUT : 0) | (receiving ? POLLIN : 0))};
    if (poll(&entry, 1, -1) != 1) fail(stream, "poll");
    if (receiving && (entry.revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
      const ssize_t n =
          recv(stream->fd, (char*)stream->in + rest, sizeof(stream->in) - rest, MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) fail(stream, "recv");
      if (n == 0) {
        end_of_stream(stream, rest);
        receiving = 0;
      }
      if (n > 0) rest = take(stream, rest + (size_t)n);
    }
    if (!sending || (entry.revents & POLLOUT) == 0) continue;
    const ssize_t n = send(stream->fd, (const char*)stream->out + done, sizeof(stream->out) - done,
                           MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) fail(stream, "send");
    if (n > 0) done += (size_t)n;
    if (done < sizeof(stream->out)) continue;
    done = 0;
    stream->sent += kWords;
    if (stopping()) {
      if (shutdown(stream->fd, SHUT_WR) != 0) fail(stream, "shutdown");
      sending = 0;
    } else {
      fill(stream);
    }
  }
  return NULL;
}

/// This node's first address of a family that others can reach.
static struct sockaddr_in6 own_address(const struct stream* stream, sa_family_t family) {
  struct sockaddr_in6 address = {0};
  struct ifaddrs* all = NULL;
  if (getifaddrs(&all) != 0) fail(stream, "getifaddrs");
  for (const struct ifaddrs* each = all; each != NULL && address.sin6_family == 0;
       each = each->ifa_next) {
    if (each->ifa_addr == NULL || each->ifa_addr->sa_family != family) continue;
    if (family == AF_INET) {
      const struct sockaddr_in* v4 = (const struct sockaddr_in*)each->ifa_addr;
      if ((ntohl(v4->sin_addr.s_addr) >> 24) != IN_LOOPBACKNET) memcpy(&address, v4, sizeof(*v4));
    } else {
      const struct sockaddr_in6* v6 = (const struct sockaddr_in6*)each->ifa_addr;
      if (!IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) {
        address = *v6;
      }
    }
  }
  freeifaddrs(all);
  errno = 0;
  if (address.sin6_family == 0) fail(stream, "this node has no address that others can reach");
  return address;
}

static socklen_t length_of(const struct sockaddr_in6* address) {
  return address->sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(*address);
}

/// The lower rank of a pair listens, the other connects.
static void open_stream(struct stream* stream) {
  const sa_family_t family = stream->number / 2 % 2 == 0 ? AF_INET : AF_INET6;
  struct sockaddr_in6 address = own_address(stream, family);
  if (me.rank < peer) {
    const int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof(address);
    if (listener < 0 ||
        bind(listener, (const struct sockaddr*)&address, length_of(&address)) != 0 ||
        listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr*)&address, &length) != 0) {
      fail(stream, "a listening socket");
    }
    MPI_Send(&address, sizeof(address), MPI_BYTE, peer, stream->number, MPI_COMM_WORLD);
    stream->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (stream->fd < 0) fail(stream, "accept");
    close(listener);
  } else {
    MPI_Recv(&address, sizeof(address), MPI_BYTE, peer, stream->number, MPI_COMM_WORLD,
             MPI_STATUS_IGNORE);
    stream->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream->fd < 0 ||
        connect(stream->fd, (const struct sockaddr*)&address, length_of(&address)) != 0) {
      fail(stream, "connect");
    }
  }
}

static uint64_t all_received(void) {
  uint64_t words = 0;
  for (int i = 0; i < stream_count; ++i) words += atomic_load(&streams[i].received);
  return words;
}

static void compare_counts(struct stream* stream) {
  uint64_t theirs = 0;
  MPI_Sendrecv(&stream->sent, 1, MPI_UINT64_T, peer, stream->number, &theirs, 1, MPI_UINT64_T, peer,
               stream->number, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  expect(&me, stream->number, "words of a connection", theirs, atomic_load(&stream->received));
}

static void start(pthread_t* thread, void* (*body)(void*), struct stream* stream) {
  errno = pthread_create(thread, NULL, body, stream);
  if (errno != 0) fail(stream, "pthread_create");
}

int main(int argc, char** argv) {
  int no_arguments = 1;
  me = begin(&no_arguments, &argv, "byte_stream");
  stream_count = argc == 3 ? atoi(argv[1]) : 0;
  if (stream_count < 1 || stream_count > kMostConnections || me.ranks % 2 != 0) {
    fprintf(stderr, "byte_stream CONNECTIONS STOP_FILE, with an even number of ranks\n");
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  stop_file = argv[2];
  peer = (me.rank + me.ranks / 2) % me.ranks;
  streams = allocate(&me, (size_t)stream_count * sizeof(struct stream));
  pthread_t threads[2 * kMostConnections];
  int thread_count = 0;
  for (int i = 0; i < stream_count; ++i) {
    streams[i].number = i;
    open_stream(&streams[i]);
  }
  for (int i = 0; i < stream_count; ++i) {
    if (i % 2 == 0) {
      start(&threads[thread_count++], send_blocking, &streams[i]);
      start(&threads[thread_count++], receive_blocking, &streams[i]);
    } else {
      start(&threads[thread_count++], exchange_polled, &streams[i]);
    }
  }
  const struct timespec tick = {0, kTick_ms * 1000000L};
  for (long i = 0; !stopping(); ++i) {
    if (me.rank == 0 && i % 5 == 0) {
      printf("byte_stream: %llu MB received\n", (unsigned long long)(all_received() >> 17));
    }
    if (nanosleep(&tick, NULL) != 0) mismatch(&me, i, "nanosleep", 0, (uint64_t)errno);
  }
  for (int i = 0; i < thread_count; ++i) pthread_join(threads[i], NULL);
  for (int i = 0; i < stream_count; ++i) compare_counts(&streams[i]);
  uint64_t words = all_received();
  uint64_t all = 0;
  MPI_Reduce(&words, &all, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
  if (me.rank == 0) {
    printf("byte_stream: ranks %d connections %d: %llu words, every one in its place\n", me.ranks,
           stream_count, (unsigned long long)all);
  }
  for (int i = 0; i < stream_count; ++i) close(streams[i].fd);
  free(streams);
  MPI_Finalize();
  return 0;
}
