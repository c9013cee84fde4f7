// Blocks SIGURG, which it does not handle, and SIGWINCH; says so in the file `ready`; waits for a
// SIGURG and writes its number to the file `result`. Ends with 2 when there comes another.
#include <signal.h>
#include <stdio.h>
#include <time.h>

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGURG);
  sigaddset(&set, SIGWINCH);
  if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) return 1;
  FILE* file = fopen("ready", "w");
  if (file == NULL) return 1;
  fclose(file);
  siginfo_t info;
  const struct timespec patience = {20, 0};
  const int signo = sigtimedwait(&set, &info, &patience);
  file = fopen("result.part", "w");
  if (file == NULL) return 1;
  fprintf(file, "%d\n", signo);
  fclose(file);
  if (rename("result.part", "result") != 0) return 1;
  // One is all.
  const struct timespec moment = {0, 50000000};
  return sigtimedwait(&set, &info, &moment) == -1 ? 0 : 2;
}
