#include "coord/patience.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <string>
#include <thread>

#include "common/try_again.h"

namespace fermata::coord {
namespace {

/// Each of its sentences, if there are several.
std::string without_another_try(std::string text) {
  for (size_t at = text.find(kTryAgain); at != std::string::npos; at = text.find(kTryAgain)) {
    text.erase(at, kTryAgain.size());
  }
  return text;
}

}  // namespace

void SameEachTime::note(const Status& status, bool judged) {
  const bool busy = status.code() == Code::kBusy;
  same_ = same_ && busy && judged && (count_ == 0 || status.message() == last_.message());
  last_time_ = std::chrono::steady_clock::now();
  if (count_ == 0) first_ = last_time_;
  ++count_;
  last_ = status;
}

Status SameEachTime::verdict() const {
  constexpr uint32_t kSeveral = 5;
  if (last_.code() != Code::kBusy) return last_;
  const Duration lasted = last_time_ - first_;
  if (!same_ || count_ < kSeveral || lasted < lasting_) {
    return {Code::kBusy, fmt::format("{} (tried {} times)", last_.message(), count_)};
  }
  return {Code::kCannotHold,
          fmt::format("{} (so at each of {} attempts in {} s: it is for the program to change it)",
                      without_another_try(last_.message()), count_,
                      std::chrono::duration_cast<std::chrono::seconds>(lasted).count())};
}

uint32_t try_patiently(const Patience& patience, const std::function<Code()>& attempt) {
  constexpr double kLonger = 1.25;
  const Time last_begin = std::chrono::steady_clock::now() + patience.limit;
  // A job whose rhythm is that of the attempts would be met in the same state by each of them.
  std::minstd_rand dice(std::random_device{}());
  std::uniform_real_distribution<double> stretch(1.0, 1.5);
  Duration pause = patience.pause;
  for (uint32_t count = 1;; ++count) {
    if (attempt() != Code::kBusy || count >= patience.attempts) return count;
    const auto wait = std::chrono::duration_cast<Duration>(pause * stretch(dice));
    if (std::chrono::steady_clock::now() + wait > last_begin) return count;
    std::this_thread::sleep_for(wait);
    pause = std::min(std::chrono::duration_cast<Duration>(pause * kLonger), patience.longest_pause);
  }
}

}  // namespace fermata::coord
