#include "coord/step_offers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "coord/wire.h"

namespace fermata::coord {
namespace {

/// An order that told of a refusal may be lost with the stream of its node; its tasks are offered
/// again on the next one.
constexpr std::chrono::hours kRemembered{1};
constexpr size_t kMostNamed = 8;

std::string some_of(const std::vector<std::string>& names) {
  const size_t count = std::min(names.size(), kMostNamed);
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + count, ", "));
  if (names.size() > count) text += fmt::format(" and {} more", names.size() - count);
  return text;
}

std::string who_is_missing(const StepOffers& offers, Duration patience) {
  std::vector<std::string> here;
  std::vector<std::string> missing;
  const wire::StepOffer& first = offers.begin()->second.offer;
  for (uint32_t number = 0; number < first.nodes(); ++number) {
    const auto found = offers.find(number);
    if (found != offers.end()) {
      here.push_back(found->second.node);
    } else {
      missing.push_back(std::to_string(number));
    }
  }
  return fmt::format(
      "the tasks of step {} on {} wait, but {} s later none have come from its nodes with the "
      "numbers {} (SLURM_NODEID): does fermata-agentd run there?",
      to_string(from_wire(first.id()).step), some_of(here),
      std::chrono::duration_cast<std::chrono::seconds>(patience).count(), some_of(missing));
}

}  // namespace

StepBoard::Answer StepBoard::offered(const std::string& node, const wire::StepOffer& offer) {
  const PodId id = from_wire(offer.id());
  const Start start = start_of(id);
  const std::lock_guard lock(mutex_);
  if (beginning_.contains(start)) return {};
  if (const auto found = refused_.find(start); found != refused_.end()) {
    return found->second.refusal;
  }
  Waiting& waiting = waiting_[start];
  if (!waiting.offers.contains(id.pod)) waiting.due = std::chrono::steady_clock::now() + patience_;
  waiting.offers[id.pod] = {node, offer};
  changed_.notify_all();
  if (waiting.offers.size() < offer.nodes()) return {};
  StepOffers offers = std::move(waiting.offers);
  waiting_.erase(start);
  beginning_.insert(start);
  return offers;
}

void StepBoard::begun(const PodId& id) {
  const std::lock_guard lock(mutex_);
  beginning_.erase(start_of(id));
}

void StepBoard::refused(const PodId& id, Refusal refusal) {
  const std::lock_guard lock(mutex_);
  remember(start_of(id), std::move(refusal));
}

std::optional<StepBoard::Overdue> StepBoard::withdrawn(const std::string& node, const PodId& id) {
  const std::lock_guard lock(mutex_);
  const Start start = start_of(id);
  // Of one that is being begun, the agent says so itself.
  if (beginning_.contains(start) || refused_.contains(start)) return std::nullopt;
  Overdue overdue;
  overdue.refusal.text = fmt::format(
      "step {} cannot begin: one of its tasks on {} has ended before all were there; what Slurm "
      "says of that one is the reason",
      to_string(id.step), node);
  if (const auto found = waiting_.find(start); found != waiting_.end()) {
    overdue.offers = std::move(found->second.offers);
    waiting_.erase(found);
  }
  remember(start, overdue.refusal);
  return overdue;
}

void StepBoard::remember(const Start& start, Refusal refusal) {
  const Time now = std::chrono::steady_clock::now();
  std::erase_if(refused_, [&](const auto& one) { return one.second.until < now; });
  beginning_.erase(start);
  refused_[start] = {std::move(refusal), now + kRemembered};
}

std::optional<StepBoard::Overdue> StepBoard::wait_overdue(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const auto first = std::min_element(
        waiting_.begin(), waiting_.end(),
        [](const auto& one, const auto& other) { return one.second.due < other.second.due; });
    if (first == waiting_.end()) {
      changed_.wait(lock, stop, [&] { return !waiting_.empty(); });
    } else if (const Time due = first->second.due; std::chrono::steady_clock::now() < due) {
      // What comes meanwhile is due later.
      changed_.wait_until(lock, stop, due, [] { return false; });
    } else {
      Overdue overdue{std::move(first->second.offers), {}};
      overdue.refusal.text = who_is_missing(overdue.offers, patience_);
      remember(first->first, overdue.refusal);
      waiting_.erase(first);
      return overdue;
    }
  }
  return std::nullopt;
}

}  // namespace fermata::coord
