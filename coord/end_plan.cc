#include "coord/end_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/time_parse.h"

namespace fermata::coord {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// Beyond what sets took: Slurm has to be asked and told, and machines are slower at times.
constexpr seconds kHeadroom{3};
/// Between two questions: a quarter of the time left, within these bounds.
constexpr seconds kAskSoonest{5};
constexpr minutes kAskLatest{10};
/// Between two attempts of a set: twice as long each time.
constexpr seconds kRetrySoonest{2};
constexpr minutes kRetryLatest{1};

}  // namespace

void EndPlan::answered(Time now, std::optional<Limit> limit) {
  asked_ = now;
  limit_ = limit;
}

void EndPlan::measured(Duration took) { longest_ = std::max(longest_, took); }

void EndPlan::failed(Time now) {
  retry_ = std::clamp<Duration>(retry_ * 2, kRetrySoonest, kRetryLatest);
  not_before_ = now + retry_;
}

EndPlan::Duration EndPlan::expected() const { return longest_ + longest_ / 2 + kHeadroom; }

EndPlan::Time EndPlan::ask_again() const {
  if (!limit_) return *asked_ + kAskSoonest;
  const Duration left = limit_->end - *asked_;
  return *asked_ + std::clamp<Duration>(left / 4, kAskSoonest, kAskLatest);
}

std::optional<EndPlan::Next> EndPlan::next() const {
  if (done_) return std::nullopt;
  if (!asked_) return Next{Act::kAsk, {}};
  if (!limit_ || !hopeless().empty()) return Next{Act::kAsk, ask_again()};
  Next set{Act::kLast, limit_->end - margin_ - expected()};
  // Half of what is left when it was first asked for: there is time for the next one then.
  if (longest_ == Duration::zero()) {
    set = {Act::kMeasure, limit_->start + (limit_->end - margin_ - limit_->start) / 2};
  }
  if (not_before_) set.when = std::max(set.when, *not_before_);
  // Slurm's last word is not to be older than that when the last set is taken.
  const Time ask = set.act == Act::kLast && set.when > *asked_ + kAskSoonest
                       ? std::min(ask_again(), set.when - milliseconds(1))
                       : ask_again();
  return ask < set.when ? Next{Act::kAsk, ask} : set;
}

bool EndPlan::leaves_no_time(Time now) const {
  if (done_ || !limit_ || longest_ == Duration::zero() || !hopeless().empty()) return false;
  return now + longest_ >= limit_->end - margin_ - expected();
}

std::string EndPlan::hopeless() const {
  if (!limit_) return {};
  const Duration all = limit_->end - limit_->start;
  const Duration lost = margin_ + expected();
  if (lost * 10 <= all * 9) return {};
  const auto text = [](Duration duration) {
    return format_duration(std::chrono::duration_cast<milliseconds>(duration));
  };
  return fmt::format(
      "its time limit of {} is too short for --checkpoint-before-end: a checkpoint of it has to be "
      "begun {} before",
      text(all), text(lost));
}

}  // namespace fermata::coord
