// A signalfd with three signals waiting behind it, read after the cut with their values.
#include <sys/signalfd.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGRTMIN);
  sigaddset(&wanted, SIGUSR1);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  const int fd = state::must(signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd");
  sigval value{};
  for (int number : {5, 6}) {
    value.sival_int = number;
    state::must(sigqueue(getpid(), SIGRTMIN, value), "sigqueue");
  }
  state::must(kill(getpid(), SIGUSR1), "kill");
  state::hold();
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0, "the signalfd lost O_NONBLOCK");
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0, "the signalfd lost FD_CLOEXEC");
  signalfd_siginfo info[4];
  const ssize_t got = state::must(read(fd, info, sizeof info), "read of the signalfd");
  CHECK(got == ssize_t{3 * sizeof(signalfd_siginfo)}, "%zd bytes of signals", got);
  CHECK(info[0].ssi_signo == SIGUSR1, "the first signal is %u", info[0].ssi_signo);
  CHECK(info[1].ssi_int == 5 && info[2].ssi_int == 6, "values %d and %d", info[1].ssi_int,
        info[2].ssi_int);
  value.sival_int = 9;
  state::must(sigqueue(getpid(), SIGRTMIN, value), "sigqueue");
  CHECK(read(fd, info, sizeof info[0]) == ssize_t{sizeof info[0]} && info[0].ssi_int == 9,
        "a signal sent after the cut does not arrive");
  state::pass();
}
