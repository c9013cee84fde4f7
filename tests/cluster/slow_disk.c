// A disk that takes its time, for fermata-agentd: preloaded (LD_PRELOAD), it has each fsync(2) of
// that program last SLOW_DISK_MS milliseconds longer, and each pread(2) of a block of an image (a
// MiB) SLOW_READ_MS. Other programs are left alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kBlock = 1 << 20 };

static void take(const char* how_long) {
  const char* const slow = getenv(how_long);
  if (slow != NULL && strcmp(program_invocation_short_name, "fermata-agentd") == 0) {
    const long ms = atol(slow);
    struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
  }
}

int fsync(int fd) {
  static int (*next)(int) = NULL;
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  take("SLOW_DISK_MS");
  return next(fd);
}

ssize_t pread(int fd, void* bytes, size_t count, off_t offset) {
  static ssize_t (*next)(int, void*, size_t, off_t) = NULL;
  if (next == NULL) next = (ssize_t(*)(int, void*, size_t, off_t))dlsym(RTLD_NEXT, "pread");
  if (count >= kBlock) take("SLOW_READ_MS");
  return next(fd, bytes, count, offset);
}
