// A disk that takes its time, for fermata-agentd: preloaded (LD_PRELOAD), it has each fsync(2) of
// that program last SLOW_DISK_MS milliseconds longer. Other programs are left alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int fsync(int fd) {
  static int (*next)(int) = NULL;
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  const char* const slow = getenv("SLOW_DISK_MS");
  if (slow != NULL && strcmp(program_invocation_short_name, "fermata-agentd") == 0) {
    const long ms = atol(slow);
    struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
    }
  }
  return next(fd);
}
