#include "coord/patience.h"

#include <random>
#include <thread>

namespace fermata::coord {

void SameEachTime::note(const Status& status, bool judged) {
  const bool busy = status.code() == Code::kBusy;
  same_ = same_ && busy && judged && (count_ == 0 || status.message() == last_.message());
  ++count_;
  last_ = status;
}

Status SameEachTime::verdict() const {
  constexpr uint32_t kSeveral = 5;
  if (!same_ || count_ < kSeveral) return last_;
  return {Code::kCannotHold, last_.message()};
}

uint32_t try_patiently(const Patience& patience, const std::function<Code()>& attempt) {
  const Time last_begin = std::chrono::steady_clock::now() + patience.limit;
  // A job whose rhythm is that of the attempts would be met in the same state by each of them.
  std::minstd_rand dice(std::random_device{}());
  std::uniform_real_distribution<double> stretch(1.0, 1.5);
  for (uint32_t count = 1;; ++count) {
    if (attempt() != Code::kBusy || count >= patience.attempts) return count;
    std::this_thread::sleep_for(patience.pause * stretch(dice));
    if (std::chrono::steady_clock::now() > last_begin) return count;
  }
}

}  // namespace fermata::coord
