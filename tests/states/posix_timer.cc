// POSIX timers: periodic to a thread (SIGEV_THREAD_ID), one-shot by signal with a value, one
// disarmed; ids stay.
#include <csignal>
#include <vector>

#include "tests/states/state.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace {
timer_t make(int signal, int value, pid_t thread) {
  sigevent event{};
  event.sigev_notify = thread != 0 ? SIGEV_THREAD_ID : SIGEV_SIGNAL;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  if (thread != 0) event.sigev_notify_thread_id = thread;
  timer_t timer{};
  state::must(timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create");
  return timer;
}

void set(timer_t timer, int first_ms, int every_ms) {
  const itimerspec when{{every_ms / 1000, every_ms % 1000 * 1000000L},
                        {first_ms / 1000, first_ms % 1000 * 1000000L}};
  state::must(timer_settime(timer, 0, &when, nullptr), "timer_settime");
}

siginfo_t wait_for(int signal, int ms) {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  const timespec limit{ms / 1000, ms % 1000 * 1000000L};
  siginfo_t info{};
  CHECK(sigtimedwait(&one, &info, &limit) == signal, "signal %d did not come", signal);
  return info;
}
}  // namespace

int main() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  const timer_t gap = make(SIGUSR2, 0, 0);
  std::thread other([] {
    const timer_t periodic = make(SIGRTMIN + 1, 31, state::gettid());
    set(periodic, 10, 25);
    while (!state::go()) {
      const siginfo_t info = wait_for(SIGRTMIN + 1, 2000 + state::late_ms());
      CHECK(info.si_value.sival_int == 31 && info.si_code == SI_TIMER, "value %d, code %d",
            info.si_value.sival_int, info.si_code);
    }
    for (int i = 0; i < 3; i++) wait_for(SIGRTMIN + 1, 1000 + state::late_ms());
    timer_delete(periodic);
  });
  const timer_t once = make(SIGUSR1, 77, 0);
  const timer_t idle = make(SIGUSR1, 1, 0);
  timer_delete(gap);  // leaves a hole in the row of ids
  set(once, 2500, 0);
  const int64_t due = state::now_ms() + 2500;
  state::sleep_ms(100);
  state::hold();
  const siginfo_t info = wait_for(SIGUSR1, 4000 + state::late_ms());
  const int64_t late = state::now_ms() - due;
  CHECK(info.si_value.sival_int == 77, "the one-shot's value is %d", info.si_value.sival_int);
  CHECK(late >= -2, "the one-shot came %ld ms early", -late);
  itimerspec left{};
  state::must(timer_gettime(idle, &left), "timer_gettime of the idle timer");
  CHECK(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0, "the idle timer runs");
  set(idle, 5, 0);
  CHECK(wait_for(SIGUSR1, 2000).si_value.sival_int == 1, "the idle timer's value changed");
  other.join();
  state::pass();
}
