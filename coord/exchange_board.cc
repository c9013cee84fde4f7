#include "coord/exchange_board.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fermata::coord {
namespace {

// An exit status of its own has no meaning here: the step did not do it.
constexpr int32_t kFailedStatus = 1;
constexpr int32_t kForgotten = -1;  // PMIX_ERROR: what the ranks' call returns
// A pod under way to the n-th has had the n-1-th, and keeps both until the n-th is there.
constexpr size_t kMaxUnderWay = 2;
constexpr size_t kMaxReason = 1024;

}  // namespace

ExchangeBoard::ExchangeBoard(JobStep step, uint32_t start, std::vector<uint32_t> pod_of_rank,
                             uint32_t pods, const Limits& limits)
    : step_(step),
      start_(start),
      pod_of_rank_(std::move(pod_of_rank)),
      pods_(pods),
      limits_(limits) {}

std::vector<wire::ExchangeDown> ExchangeBoard::take(const wire::ExchangeUp& message) {
  const wire::PodId& from = message.pod();
  if (from.job() != step_.job || from.step() != step_.step || from.start() != start_ ||
      from.pod() >= pods_) {
    return {};
  }
  switch (message.kind_case()) {
    case wire::ExchangeUp::kContribution:
      return contribute(from.pod(), message.contribution());
    case wire::ExchangeUp::kFetch:
      return fetch(from.pod(), message.fetch());
    case wire::ExchangeUp::kServed:
      return served(from.pod(), message.served());
    case wire::ExchangeUp::kAbort:
      if (aborted_) return {};
      aborted_ = message.abort();
      aborted_->mutable_reason()->resize(std::min(aborted_->reason().size(), kMaxReason));
      return tell_all(from.pod());
    case wire::ExchangeUp::kRankEnded:  // its agent's
    case wire::ExchangeUp::KIND_NOT_SET:
      break;
  }
  return {};
}

std::vector<wire::ExchangeDown> ExchangeBoard::attached(uint32_t pod) const {
  Downs downs;
  for (const auto& [id, request] : requests_) {
    if (request.server() != pod) continue;
    wire::ExchangeDown down = to(pod);
    *down.mutable_serve() = request;
    downs.push_back(std::move(down));
  }
  if (aborted_) {
    wire::ExchangeDown down = to(pod);
    *down.mutable_abort() = *aborted_;
    downs.push_back(std::move(down));
  }
  return downs;
}

ExchangeBoard::Downs ExchangeBoard::abort(int32_t status, const std::string& reason) {
  if (!aborted_) {
    aborted_.emplace();
    aborted_->set_status(status);
    aborted_->set_reason(reason.substr(0, kMaxReason));
  }
  return tell_all(std::nullopt);
}

std::vector<wire::ExchangeDown> ExchangeBoard::pod_ended(uint32_t pod) {
  Downs downs;
  ended_.insert(pod);
  for (auto request = requests_.begin(); request != requests_.end();) {
    if (request->second.server() == pod) {
      downs.push_back(not_found(request->second));
      request = requests_.erase(request);
    } else {
      ++request;
    }
  }
  return downs;
}

wire::ExchangeDown ExchangeBoard::not_found(const wire::FetchRequest& request) const {
  wire::ExchangeDown down = to(request.asker());
  wire::FetchReply* reply = down.mutable_fetched();
  reply->set_rank(request.rank());
  reply->set_asker(request.asker());
  reply->set_number(request.number());
  return down;
}

wire::ExchangeDown ExchangeBoard::to(uint32_t pod) const {
  wire::ExchangeDown down;
  wire::PodId* id = down.mutable_pod();
  id->set_job(step_.job);
  id->set_step(step_.step);
  id->set_pod(pod);
  id->set_start(start_);
  return down;
}

std::vector<wire::ExchangeDown> ExchangeBoard::tell_all(std::optional<uint32_t> but) const {
  Downs downs;
  for (uint32_t pod = 0; pod < pods_; ++pod) {
    if (but == pod) continue;
    wire::ExchangeDown down = to(pod);
    *down.mutable_abort() = *aborted_;
    downs.push_back(std::move(down));
  }
  return downs;
}

std::vector<wire::Part> ExchangeBoard::parts_of(uint32_t sender,
                                                const wire::Contribution& contribution) const {
  const auto& pods = contribution.pods();
  if (contribution.number() == 0 || pods.empty() || pods.Get(pods.size() - 1) >= pods_) return {};
  if (std::adjacent_find(pods.begin(), pods.end(), std::greater_equal<>()) != pods.end()) return {};
  std::vector<wire::Part> parts(contribution.parts().begin(), contribution.parts().end());
  if (parts.empty()) {
    wire::Part& part = parts.emplace_back();
    part.set_pod(sender);
    part.set_blob(contribution.blob());
    part.set_status(contribution.status());
  }
  const bool all_take_part = std::all_of(parts.begin(), parts.end(), [&](const wire::Part& part) {
    return std::binary_search(pods.begin(), pods.end(), part.pod());
  });
  return all_take_part ? parts : std::vector<wire::Part>();
}

std::vector<wire::ExchangeDown> ExchangeBoard::contribute(uint32_t sender,
                                                          const wire::Contribution& contribution) {
  std::vector<wire::Part> parts = parts_of(sender, contribution);
  if (parts.empty()) return {};
  const std::string& key = contribution.key();
  const uint64_t number = contribution.number();
  auto [found, is_new] = collectives_.try_emplace(key);
  Collective& collective = found->second;
  if (is_new) {
    collective.pods.assign(contribution.pods().begin(), contribution.pods().end());
    collective.place = order_.insert(order_.end(), key);
  }
  if (!std::equal(contribution.pods().begin(), contribution.pods().end(), collective.pods.begin(),
                  collective.pods.end())) {
    return {};
  }
  order_.splice(order_.end(), order_, collective.place);
  if (number < collective.completed) return {};
  if (number == collective.completed) {
    // Said again: the answer may have been lost. One that was forgotten cannot be given any more,
    // and who waits for it is to know.
    wire::ExchangeDown down = to(sender);
    wire::Gathered& gathered = *down.mutable_gathered();
    if (collective.gathered) {
      gathered = *collective.gathered;
    } else {
      gathered.set_key(key);
      gathered.set_number(number);
      gathered.set_status(kForgotten);
    }
    return {std::move(down)};
  }
  Gathering& gathering = collective.under_way[number];
  gathering.senders.insert(sender);
  for (wire::Part& part : parts) {
    const size_t size = part.blob().size();
    const uint32_t pod = part.pod();
    if (gathering.parts.emplace(pod, std::move(part)).second) bytes_ += size;
  }
  if (gathering.parts.size() == collective.pods.size()) return complete(key, collective, number);
  if (collective.under_way.size() > kMaxUnderWay) {
    drop(collective, collective.under_way.begin());
  }
  if (!make_room()) {
    return abort(
        kFailedStatus,
        fmt::format("the collectives of step {} that are under way are {}, of {} MiB: more "
                    "than the coordinator holds for a step",
                    to_string(step_), order_.size(), bytes_ >> 20));
  }
  return {};
}

std::vector<wire::ExchangeDown> ExchangeBoard::complete(const std::string& key,
                                                        Collective& collective, uint64_t number) {
  wire::Gathered gathered;
  gathered.set_key(key);
  gathered.set_number(number);
  for (const auto& [pod, part] : collective.under_way[number].parts) {
    gathered.mutable_blobs()->append(part.blob());
    if (gathered.status() == 0) gathered.set_status(part.status());
  }
  const std::set<uint32_t> senders = std::move(collective.under_way[number].senders);
  // Whoever contributed this one has had all before.
  while (!collective.under_way.empty() && collective.under_way.begin()->first <= number) {
    drop(collective, collective.under_way.begin());
  }
  if (gathered.ByteSizeLong() > limits_.gathered) {
    return abort(kFailedStatus,
                 fmt::format("a collective of step {} gathers {} MiB, more than a message holds",
                             to_string(step_), gathered.blobs().size() >> 20));
  }
  forget_gathered(collective);
  collective.completed = number;
  bytes_ += gathered.blobs().size();
  Downs downs;
  for (const uint32_t sender : senders) {
    wire::ExchangeDown down = to(sender);
    *down.mutable_gathered() = gathered;
    downs.push_back(std::move(down));
  }
  collective.gathered = std::move(gathered);
  (void)make_room();  // nothing was added to what is under way
  return downs;
}

void ExchangeBoard::drop(Collective& collective,
                         std::map<uint64_t, Gathering>::iterator gathering) {
  for (const auto& [pod, part] : gathering->second.parts) bytes_ -= part.blob().size();
  collective.under_way.erase(gathering);
}

void ExchangeBoard::forget_gathered(Collective& collective) {
  if (!collective.gathered) return;
  bytes_ -= collective.gathered->blobs().size();
  collective.gathered.reset();
}

bool ExchangeBoard::make_room() {
  for (auto key = order_.begin();
       key != order_.end() && (bytes_ > limits_.bytes || order_.size() > limits_.collectives);) {
    const auto found = collectives_.find(*key);
    forget_gathered(found->second);
    if (found->second.under_way.empty() && order_.size() > limits_.collectives) {
      collectives_.erase(found);
      key = order_.erase(key);
    } else {
      ++key;
    }
  }
  return bytes_ <= limits_.bytes && order_.size() <= limits_.collectives;
}

std::vector<wire::ExchangeDown> ExchangeBoard::fetch(uint32_t asker, wire::FetchRequest request) {
  request.set_asker(asker);
  // A call of the published names goes where the asker says, the data of a rank where it is.
  if (request.names().empty()) {
    if (request.rank() >= pod_of_rank_.size()) return {};
    request.set_server(pod_of_rank_[request.rank()]);
  }
  if (request.server() >= pods_ || request.server() == asker) return {};
  if (ended_.contains(request.server())) return {not_found(request)};
  const auto mine = requests_.lower_bound({asker, 0});
  requests_.erase(mine,
                  requests_.lower_bound({asker, std::min(request.settled(), request.number())}));
  const auto count =
      std::distance(requests_.lower_bound({asker, 0}), requests_.upper_bound({asker, UINT64_MAX}));
  if (static_cast<size_t>(count) >= limits_.requests) return {};
  requests_[{asker, request.number()}] = request;
  wire::ExchangeDown down = to(request.server());
  *down.mutable_serve() = std::move(request);
  return {std::move(down)};
}

std::vector<wire::ExchangeDown> ExchangeBoard::served(uint32_t server,
                                                      const wire::FetchReply& reply) {
  const auto found = requests_.find({reply.asker(), reply.number()});
  if (found == requests_.end() || found->second.server() != server) return {};
  requests_.erase(found);
  wire::ExchangeDown down = to(reply.asker());
  *down.mutable_fetched() = reply;
  return {std::move(down)};
}

}  // namespace fermata::coord
