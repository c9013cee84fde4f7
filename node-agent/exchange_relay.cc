#include "node-agent/exchange_relay.h"

#include <algorithm>
#include <utility>

namespace fermata::node_agent {
namespace {

// PMIX_ERROR: of a part there was no room for.
constexpr int kFailed = -1;

}  // namespace

wire::PodId ExchangeRelay::id_of(uint32_t pod) const {
  wire::PodId id;
  id.set_job(step_.job);
  id.set_step(step_.step);
  id.set_pod(pod);
  id.set_start(start_);
  return id;
}

ExchangeRelay::Collective& ExchangeRelay::collective_of(const wire::Contribution& contribution) {
  auto [found, is_new] = collectives_.try_emplace(contribution.key());
  Collective& collective = found->second;
  if (is_new) {
    collective.pods.assign(contribution.pods().begin(), contribution.pods().end());
    collective.place = order_.insert(order_.end(), contribution.key());
  }
  order_.splice(order_.end(), order_, collective.place);
  return collective;
}

bool ExchangeRelay::is_complete(const Collective& collective, const Gathering& gathering) const {
  return std::all_of(collective.pods.begin(), collective.pods.end(), [&](uint32_t pod) {
    return !below_.contains(pod) || gathering.parts.contains(pod);
  });
}

void ExchangeRelay::send_on(const std::string& key, const Collective& collective, uint64_t number,
                            Gathering& gathering, Out& out) const {
  if (!self_) return;
  size_t room = 0;
  bool first = true;
  for (const auto& [pod, part] : gathering.parts) {
    if (!gathering.sent.insert(pod).second) continue;
    if (std::exchange(first, false) || part.blob().size() > room) {
      wire::ExchangeUp& up = out.up.emplace_back();
      *up.mutable_pod() = id_of(*self_);
      up.mutable_contribution()->set_key(key);
      up.mutable_contribution()->set_number(number);
      up.mutable_contribution()->mutable_pods()->Assign(collective.pods.begin(),
                                                        collective.pods.end());
      room = std::max(limits_.message, part.blob().size());
    }
    *out.up.back().mutable_contribution()->add_parts() = part;
    room -= part.blob().size();
  }
}

ExchangeRelay::Out ExchangeRelay::take(const wire::ExchangeUp& message) {
  Out out;
  const wire::Contribution& contribution = message.contribution();
  const uint32_t sender = message.pod().pod();
  const uint64_t number = contribution.number();
  if (number == 0 || number == UINT64_MAX) return out;  // no count reaches there
  Collective& collective = collective_of(contribution);
  // Above is judged what belongs together; here what differs is none of this collective.
  if (!std::equal(contribution.pods().begin(), contribution.pods().end(), collective.pods.begin(),
                  collective.pods.end()) ||
      number < collective.completed) {
    return out;
  }
  Gathering& gathering = collective.gatherings[number];
  gathering.senders.insert(sender);
  const auto add = [&](wire::Part part) {
    if (gathering.parts.contains(part.pod())) return;
    bytes_ += part.blob().size();
    make_room(contribution.key());
    if (bytes_ > limits_.bytes) {
      bytes_ -= part.blob().size();
      part.clear_blob();
      part.set_status(kFailed);
    }
    gathering.parts.emplace(part.pod(), std::move(part));
  };
  for (const wire::Part& part : contribution.parts()) add(part);
  if (contribution.parts().empty()) {
    wire::Part part;
    part.set_pod(sender);
    part.set_blob(contribution.blob());
    part.set_status(contribution.status());
    add(std::move(part));
  }
  if (number == collective.completed && collective.gathered) {
    // Said again: the answer was lost.
    wire::ExchangeDown& down = out.down.emplace_back();
    *down.mutable_pod() = id_of(sender);
    *down.mutable_gathered() = *collective.gathered;
    for (const auto& [pod, part] : gathering.parts) gathering.sent.insert(pod);
  } else if (is_complete(collective, gathering)) {
    send_on(contribution.key(), collective, number, gathering, out);
  }
  if (collective.gatherings.size() > limits_.under_way) {
    drop_before(collective, std::next(collective.gatherings.begin())->first);
  }
  make_room(contribution.key());
  return out;
}

ExchangeRelay::Out ExchangeRelay::take(const wire::Gathered& gathered) {
  Out out;
  const auto found = collectives_.find(gathered.key());
  if (found == collectives_.end() || gathered.number() < found->second.completed) return out;
  Collective& collective = found->second;
  drop_before(collective, gathered.number());
  const auto gathering = collective.gatherings.find(gathered.number());
  if (gathering == collective.gatherings.end()) return out;
  if (collective.gathered) bytes_ -= collective.gathered->blobs().size();
  collective.completed = gathered.number();
  collective.gathered = gathered;
  bytes_ += gathered.blobs().size();
  for (const uint32_t sender : gathering->second.senders) {
    wire::ExchangeDown& down = out.down.emplace_back();
    *down.mutable_pod() = id_of(sender);
    *down.mutable_gathered() = gathered;
  }
  make_room(gathered.key());
  return out;
}

ExchangeRelay::Out ExchangeRelay::flush() {
  Out out;
  for (auto& [key, collective] : collectives_) {
    for (auto& [number, gathering] : collective.gatherings) {
      send_on(key, collective, number, gathering, out);
    }
  }
  return out;
}

bool ExchangeRelay::waits() const {
  return self_ && std::any_of(collectives_.begin(), collectives_.end(), [](const auto& collective) {
           const auto& gatherings = collective.second.gatherings;
           return std::any_of(gatherings.begin(), gatherings.end(), [](const auto& gathering) {
             return gathering.second.sent.size() < gathering.second.parts.size();
           });
         });
}

ExchangeRelay::Out ExchangeRelay::repeat() {
  for (auto& [key, collective] : collectives_) {
    for (auto& [number, gathering] : collective.gatherings) gathering.sent.clear();
  }
  return flush();
}

void ExchangeRelay::drop_before(Collective& collective, uint64_t number) {
  const auto end = collective.gatherings.lower_bound(number);
  for (auto gathering = collective.gatherings.begin(); gathering != end;) {
    for (const auto& [pod, part] : gathering->second.parts) bytes_ -= part.blob().size();
    gathering = collective.gatherings.erase(gathering);
  }
}

void ExchangeRelay::forget(const std::string& key) {
  const auto found = collectives_.find(key);
  drop_before(found->second, UINT64_MAX);
  if (found->second.gathered) bytes_ -= found->second.gathered->blobs().size();
  order_.erase(found->second.place);
  collectives_.erase(found);
}

void ExchangeRelay::make_room(const std::string& but) {
  for (auto key = order_.begin();
       key != order_.end() && (bytes_ > limits_.bytes || order_.size() > limits_.collectives);) {
    const Collective& collective = collectives_.at(*key);
    const bool under_way =
        collective.gatherings.upper_bound(collective.completed) != collective.gatherings.end();
    const auto here = key++;
    if (!under_way && *here != but) forget(std::string(*here));
  }
}

}  // namespace fermata::node_agent
