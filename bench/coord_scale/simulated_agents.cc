#include "bench/coord_scale/simulated_agents.h"

#include <fmt/format.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "common/munge.h"
#include "coord/agent.h"
#include "node-agent/coordinator_stream.h"
#include "proto/channel.h"
#include "proto/protocol.h"

namespace fermata::bench {
namespace {

using node_agent::CoordinatorStream;

/// Threads that sign the hellos: munged answers a few at a time.
constexpr size_t kSigners = 4;

class SimulatedAgent {
 public:
  SimulatedAgent(size_t number, const std::shared_ptr<grpc::Channel>& channel,
                 std::atomic<size_t>& left)
      : number_(number),
        stream_(channel, {.message = [this](const wire::ToAgent& message) { answer(message); },
                          .ended =
                              [&left](const grpc::Status&) {
                                --left;
                                left.notify_all();
                              }}) {}

  bool attach(Authenticator& authenticator) {
    wire::Hello hello;
    hello.set_version(FERMATA_VERSION);
    hello.set_node(node_name(number_));
    hello.set_slots(1);
    wire::FromAgent first;
    first.mutable_hello()->set_request(hello.SerializeAsString());
    auto credential = authenticator.make(wire::kAttach, first.hello().request());
    if (!credential) {
      fmt::print(stderr, "{}\n", credential.error().message());
      return false;
    }
    *first.mutable_hello()->mutable_credential() = *std::move(credential);
    stream_.begin(std::move(first));
    return true;
  }

 private:
  void answer(const wire::ToAgent& message) {
    if (!message.has_order()) return;
    wire::FromAgent out;
    wire::Done& done = *out.mutable_done();
    done.set_order(message.order().id());
    done.set_took_ns(1);
    if (message.order().phase().phase() == static_cast<uint32_t>(coord::Phase::kCommit)) {
      wire::PodReport& report = *done.mutable_report();
      report.set_memory_bytes(1U << 30);
      report.set_image_bytes(1U << 30);
      report.set_stand_still_ns(1'000'000);
      report.set_copied(true);
      report.set_image(fmt::format("pod-{}.h5", number_));
      report.set_digest("xxh3:00112233445566778899aabbccddeeff");
      report.set_time("2026-01-01T00:00:00Z");
    }
    stream_.send(std::move(out));
  }

  const size_t number_;
  CoordinatorStream stream_;
};

}  // namespace

std::string node_name(size_t agent) { return fmt::format("n{}", agent); }

int simulate_agents(const std::string& coordinator, const std::filesystem::path& munge_socket,
                    size_t agents, size_t connections) {
  if (connections == 0) connections = 1;
  MungeAuthenticator authenticator(munge_socket);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (size_t i = 0; i < connections; ++i) {
    channels.push_back(wire::open_channel(coordinator, std::chrono::seconds(60)));
  }
  std::atomic<size_t> left{agents};
  std::vector<std::unique_ptr<SimulatedAgent>> all;
  for (size_t i = 0; i < agents; ++i) {
    all.push_back(std::make_unique<SimulatedAgent>(i, channels[i % connections], left));
  }
  std::atomic<bool> failed{false};
  {
    std::vector<std::jthread> signers;
    for (size_t signer = 0; signer < kSigners; ++signer) {
      signers.emplace_back([&, signer] {
        for (size_t i = signer; i < agents && !failed; i += kSigners) {
          if (!all[i]->attach(authenticator)) failed = true;
        }
      });
    }
  }
  if (failed) return 1;
  for (size_t now = left; now > 0; now = left) left.wait(now);
  return 0;
}

}  // namespace fermata::bench
