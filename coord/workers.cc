#include "coord/workers.h"

namespace fermata::coord {

Workers::~Workers() { stop(); }

bool Workers::start(Work work) {
  std::list<Worker> ended;  // joined when the lock is free again
  const std::lock_guard lock(mutex_);
  if (stopped_) return false;
  for (auto at = workers_.begin(); at != workers_.end();) {
    const auto here = at++;
    if (here->done) ended.splice(ended.end(), workers_, here);
  }
  Worker& worker = workers_.emplace_back();
  worker.thread =
      std::jthread([this, &worker, work = std::move(work)](const std::stop_token& stop) {
        work(stop);
        const std::lock_guard done(mutex_);
        worker.done = true;
      });
  return true;
}

void Workers::stop() {
  std::list<Worker> all;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    for (Worker& worker : workers_) worker.thread.request_stop();
    all.swap(workers_);
  }
}

}  // namespace fermata::coord
