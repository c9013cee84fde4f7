// A pod of a step as the exchange knows it, without files or PMIx: what it has said and may have to
// say again, and a program that it runs. Plain values, so that a copy is a checkpoint.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/exchange.pb.h"

namespace fermata::coord {

/// Every pod has one rank of the same number. Its program, in each of `rounds`: a collective of
/// all, one of the pods 0 and 1 in every third, data of the next pod's rank, and a call of pod 0
/// that must be carried out once.
class PodModel {
 public:
  PodModel(uint32_t pod, uint32_t pods, int rounds) : pod_(pod), pods_(pods), rounds_(rounds) {
    go_on();
  }

  bool done() const { return round_ == rounds_; }
  const std::map<uint64_t, wire::ExchangeUp>& outbox() const { return outbox_; }
  /// Calls that were carried out here, by asker.
  const std::map<uint32_t, int>& calls() const { return calls_; }

  void take(const wire::ExchangeDown& message) {
    if (message.has_gathered()) take_gathered(message.gathered());
    if (message.has_fetched()) take_fetched(message.fetched());
    if (message.has_serve()) serve(message.serve());
  }

 private:
  struct Collective {
    uint64_t number = 0;
    uint64_t file = 0;  ///< under way
    uint64_t kept = 0;
  };

  std::string part(const std::string& key, uint32_t pod, uint64_t number) const {
    return key + ":" + std::to_string(pod) + ":" + std::to_string(number) + ";";
  }
  std::vector<uint32_t> members(const std::string& key) const {
    std::vector<uint32_t> pods;
    for (uint32_t pod = 0; pod < (key == "pair" ? 2 : pods_); ++pod) pods.push_back(pod);
    return pods;
  }
  uint64_t say(wire::ExchangeUp message) {
    outbox_[++files_] = std::move(message);
    return files_;
  }

  void contribute(const std::string& key) {
    Collective& collective = collectives_[key];
    ++collective.number;
    wire::ExchangeUp up;
    up.mutable_contribution()->set_key(key);
    for (const uint32_t pod : members(key)) up.mutable_contribution()->add_pods(pod);
    up.mutable_contribution()->set_number(collective.number);
    up.mutable_contribution()->set_blob(part(key, pod_, collective.number));
    collective.file = say(std::move(up));
  }

  void take_gathered(const wire::Gathered& gathered) {
    Collective& collective = collectives_[gathered.key()];
    if (collective.file == 0 || gathered.number() != collective.number) return;
    std::string expected;
    for (const uint32_t pod : members(gathered.key())) {
      expected += part(gathered.key(), pod, gathered.number());
    }
    EXPECT_EQ(gathered.blobs(), expected);
    outbox_.erase(collective.kept);
    collective.kept = std::exchange(collective.file, 0);
    go_on();
  }

  void ask(bool names) {
    wire::ExchangeUp up;
    wire::FetchRequest* request = up.mutable_fetch();
    request->set_number(++asked_);
    request->set_settled(asked_);
    request->set_rank(names ? 0 : (pod_ + 1) % pods_);
    if (names) request->set_names("call");
    request_ = say(std::move(up));
  }

  void take_fetched(const wire::FetchReply& reply) {
    if (request_ == 0 || reply.number() != asked_) return;
    EXPECT_TRUE(reply.found());
    EXPECT_EQ(reply.blob(),
              "answer " + std::to_string(reply.number()) + " to " + std::to_string(pod_));
    outbox_.erase(std::exchange(request_, 0));
    go_on();
  }

  void serve(const wire::FetchRequest& request) {
    uint64_t& settled = settled_[request.asker()];
    if (request.settled() > settled) {
      settled = request.settled();
      const auto end = replies_.lower_bound({request.asker(), settled});
      for (auto reply = replies_.lower_bound({request.asker(), 0}); reply != end;) {
        outbox_.erase(reply->second);
        reply = replies_.erase(reply);
      }
    }
    if (request.number() < settled) return;
    const std::pair<uint32_t, uint64_t> id{request.asker(), request.number()};
    const auto given = replies_.find(id);
    if (given != replies_.end()) {
      wire::ExchangeUp again = outbox_.at(given->second);
      outbox_.erase(given->second);
      given->second = say(std::move(again));
      return;
    }
    if (!request.names().empty()) ++calls_[request.asker()];
    wire::ExchangeUp up;
    wire::FetchReply* reply = up.mutable_served();
    reply->set_asker(request.asker());
    reply->set_number(request.number());
    reply->set_found(true);
    reply->set_blob("answer " + std::to_string(request.number()) + " to " +
                    std::to_string(request.asker()));
    replies_[id] = say(std::move(up));
  }

  void go_on() {
    for (;;) {
      switch (stage_++) {
        case 0:
          return contribute("all");
        case 1:
          if (pod_ <= 1 && round_ % 3 == 0) return contribute("pair");
          break;
        case 2:
          return ask(false);
        case 3:
          if (pod_ != 0) return ask(true);
          break;
        default:
          stage_ = 0;
          if (++round_ == rounds_) return;
      }
    }
  }

  uint32_t pod_;
  uint32_t pods_;
  int rounds_;
  int round_ = 0;
  int stage_ = 0;
  uint64_t files_ = 0;
  std::map<uint64_t, wire::ExchangeUp> outbox_;
  std::map<std::string, Collective> collectives_;
  uint64_t asked_ = 0;
  uint64_t request_ = 0;
  std::map<uint32_t, uint64_t> settled_;
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> replies_;
  std::map<uint32_t, int> calls_;
};

}  // namespace fermata::coord
