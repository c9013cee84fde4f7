#include "node-agent/engine/twin_ends.h"

#include <signal.h>
#include <time.h>

#include <atomic>
#include <mutex>

#include "common/background.h"
#include "node-agent/engine/ptrace.h"

namespace fermata::engine {
namespace {

Background& twin_ends() {
  static Background ends;
  return ends;
}

void see_to(pid_t pid) {
  reap_tracees({pid});
  constexpr int kMilliseconds = 300;
  for (int i = 0; i < kMilliseconds && ::kill(pid, 0) == 0; ++i) {
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

/// Threads of PIDs 1 of any pods: one that stays holds up no other.
class InitEnds {
 public:
  InitEnds() = default;
  InitEnds(const InitEnds&) = delete;
  InitEnds& operator=(const InitEnds&) = delete;
  ~InitEnds() { leaving_ = true; }

  void add(const std::vector<pid_t>& tids) {
    {
      const std::lock_guard lock(mutex_);
      tids_.insert(tids_.end(), tids.begin(), tids.end());
    }
    thread_.add([this] { reap_all(); });
  }

 private:
  void reap_all() {
    while (!leaving_) {
      {
        const std::lock_guard lock(mutex_);
        reap_ended_tracees(tids_);
        if (tids_.empty()) return;
      }
      const timespec pause{0, 2'000'000};
      ::nanosleep(&pause, nullptr);
    }
  }

  std::atomic<bool> leaving_{false};
  std::mutex mutex_;
  std::vector<pid_t> tids_;
  Background thread_;  // the last: it uses the others
};

InitEnds& init_ends() {
  static InitEnds ends;
  return ends;
}

}  // namespace

void reap_init(std::vector<pid_t> tids) {
  reap_ended_tracees(tids);
  if (!tids.empty()) init_ends().add(tids);
}

void end_twin(pid_t pid) {
  ::kill(pid, SIGKILL);
  twin_ends().add([pid] { see_to(pid); });
}

void wait_for_twin_ends() { twin_ends().wait(); }

}  // namespace fermata::engine
