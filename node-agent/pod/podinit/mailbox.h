// Requests from libpmix's thread to podinit's main loop. post() may be called from any thread; fd()
// and take() belong to the main loop. Carries no more than what the loop has to do; ranks' states
// are in RankFlags.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "common/unique_fd.h"

namespace fermata::pod {

struct Message {
  enum class Kind {
    kAbort,   ///< a rank asked for the end of the job: `value` is the exit status
    kLost,    ///< `rank` is gone, or left PMIx, without finalize
    kSignal,  ///< send signal `value` to `ranks` (job control)
    kEnd,     ///< end the whole job with signal `value` (job control)
    kCall,    ///< call `call`
    kWake,    ///< look at your deadlines again
  };
  Kind kind = Kind::kWake;
  uint32_t rank = 0;
  int value = 0;
  std::vector<uint32_t> ranks;
  std::function<void()> call;
};

class Mailbox {
 public:
  /// Invalid (fd() < 0) when the kernel gives no eventfd.
  Mailbox();

  /// Readable while messages wait.
  int fd() const { return event_.get(); }
  void post(Message message);
  /// Has the main loop call `function`.
  void call(std::function<void()> function);
  std::vector<Message> take();

 private:
  UniqueFd event_;
  std::mutex mutex_;
  std::vector<Message> messages_;
};

}  // namespace fermata::pod
