#include "common/thread_priority.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace fermata {
namespace {

// ioprio_set(2); <linux/ioprio.h> is not for C++. The last of the eight levels that ordinary I/O
// has: the job's own goes first. The idle class would starve where the disk is never idle.
constexpr int kWhoProcess = 1;
constexpr int kBestEffort = 2;
constexpr int kClassShift = 13;
constexpr int kLowestLevel = 7;
constexpr int kByNice = 0;
constexpr int kNice = 5;

}  // namespace

ThreadPriority::ThreadPriority()
    : self_(static_cast<id_t>(::gettid())), usual_(::getpriority(PRIO_PROCESS, self_)) {}

void ThreadPriority::step_back(bool back) {
  if (back == back_) return;
  back_ = back;
  ::setpriority(PRIO_PROCESS, self_, back ? std::max(kNice, usual_) : usual_);
  ::syscall(SYS_ioprio_set, kWhoProcess, self_,
            back ? kBestEffort << kClassShift | kLowestLevel : kByNice);
}

}  // namespace fermata
