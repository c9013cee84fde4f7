#include "coord/connections.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/try_again.h"

namespace fermata::coord {
namespace {

constexpr size_t kNamed = 5;  // connections in one sentence

/// States in which the peer may have been closed for good: it has nothing more to send, or there is
/// none yet.
bool peer_may_be_closed(std::string_view state) {
  constexpr std::array<std::string_view, 5> kStates{"syn-sent", "close-wait", "last-ack", "closing",
                                                    "time-wait"};
  return std::find(kStates.begin(), kStates.end(), state) != kStates.end();
}

}  // namespace

Result<ExternalTcp> parse_external_tcp(std::string_view text) {
  if (text.empty() || text == "refuse") return ExternalTcp::kRefuse;
  if (text == "reset") return ExternalTcp::kReset;
  return failure(Code::kUsage,
                 fmt::format("--external-tcp: \"{}\" is neither refuse nor reset", text));
}

std::string_view external_tcp_name(ExternalTcp policy) {
  return policy == ExternalTcp::kReset ? "reset" : "refuse";
}

std::vector<LeavingConnection> leaving_connections(std::span<const PodConnections> pods,
                                                   const Addresses& own_hosts) {
  std::unordered_set<std::string> ends;
  for (const PodConnections& pod : pods) {
    for (const image::OutsideConnection& connection : pod.connections) {
      const auto local = endpoint_of(connection.local());
      const auto remote = endpoint_of(connection.remote());
      if (local && remote) ends.insert(local->key() + remote->key());
    }
  }
  std::vector<LeavingConnection> leaving;
  for (size_t i = 0; i < pods.size(); ++i) {
    for (const image::OutsideConnection& connection : pods[i].connections) {
      const auto local = endpoint_of(connection.local());
      const auto remote = endpoint_of(connection.remote());
      if (local && remote && ends.count(remote->key() + local->key()) != 0) continue;
      if (peer_may_be_closed(connection.state()) &&
          own_hosts.count(ip_of(connection.remote())) != 0) {
        continue;
      }
      leaving.push_back({i, &connection});
    }
  }
  return leaving;
}

namespace {

std::string sentence_of(std::span<const PodConnections> pods,
                        std::span<const LeavingConnection> leaving) {
  std::string sentence;
  for (const LeavingConnection& end : leaving.first(std::min(leaving.size(), kNamed))) {
    if (!sentence.empty()) sentence += "; ";
    sentence += fmt::format("{} on {} is connected ({}) from {} to {}, which is not of the job",
                            end.connection->holder(), pods[end.pod].node, end.connection->state(),
                            display_address(end.connection->local()),
                            display_address(end.connection->remote()));
  }
  if (leaving.size() > kNamed) sentence += fmt::format("; and {} more", leaving.size() - kNamed);
  return sentence;
}

}  // namespace

Status refuse_leaving(std::span<const PodConnections> pods,
                      std::span<const LeavingConnection> leaving) {
  if (leaving.empty()) return Status::ok();
  return {Code::kCannotHold,
          sentence_of(pods, leaving) +
              ": close it first, or run the job with --external-tcp reset, which lets it end "
              "with ECONNRESET at a restart"};
}

Status LeavingJudge::judge(std::span<const PodConnections> pods,
                           std::span<const LeavingConnection> leaving, const Addresses& own_hosts) {
  bool may_pass = true;
  std::unordered_set<std::string> now;
  for (const LeavingConnection& end : leaving) {
    const std::string ends = end.connection->local() + end.connection->remote();
    const bool may_be_ours = !cut_ || own_hosts.contains(ip_of(end.connection->remote()));
    may_pass = may_pass && may_be_ours && !left_before_.contains(ends);
    now.insert(ends);
  }
  left_before_ = std::move(now);
  if (leaving.empty() || !may_pass) return refuse_leaving(pods, leaving);
  return {Code::kBusy, fmt::format("{}, or not yet{}", sentence_of(pods, leaving), kTryAgain)};
}

}  // namespace fermata::coord
