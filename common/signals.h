// Signal dispositions that were inherited: what a user chose to ignore (nohup, a shell's "&") stays
// ignored. Any thread.
#pragma once

#include <csignal>

namespace fermata {

/// Whether this process ignores the signal. Async-signal-safe.
inline bool signal_is_ignored(int signo) {
  struct sigaction action {};
  return ::sigaction(signo, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace fermata
