// How soon a thread of ours has its turn, beside the job that it works for. Each object is used by
// the thread that made it.
#pragma once

#include <sys/types.h>

namespace fermata {

class ThreadPriority {
 public:
  ThreadPriority();
  /// After the job's own work and I/O, or as before: nice value and ioprio_set(2), both of which
  /// are a thread's own on Linux (setpriority(2), C library differences).
  void step_back(bool back);

 private:
  id_t self_;
  int usual_;
  bool back_ = false;
};

}  // namespace fermata
