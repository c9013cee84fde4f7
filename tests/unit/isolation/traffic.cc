#include "tests/unit/isolation/traffic.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "node-agent/engine/capture.h"

namespace fermata::isolation {
namespace {

using std::chrono::steady_clock;

Isolation installed(const PodGroup& group) {
  Result<Isolation> isolation = Isolation::install(group.path());
  if (!isolation) throw std::runtime_error(isolation.error().message());
  return *std::move(isolation);
}

}  // namespace

Traffic::Traffic() : sender(installed(sender_group)), receiver(installed(receiver_group)) {}

std::chrono::duration<double> time_to_first_byte(Traffic& traffic, std::chrono::milliseconds cut,
                                                 bool nudged) {
  constexpr int kPatience = 60'000;
  traffic.receiver_group.enter();
  const UniqueFd listener = bound_socket(address("127.0.0.1"), SOCK_STREAM);
  traffic.sender_group.enter();
  const UniqueFd sender = connected_socket(local_of(listener), SOCK_STREAM);
  const UniqueFd receiver(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  leave_pods();
  EXPECT_TRUE(passes(sender, receiver, kPatience));

  // Lost on the way: sent by one pod when the other is cut.
  traffic.receiver.cut(cut * 10);
  EXPECT_TRUE(send_bytes(sender, std::string(20'000, 'x')));
  traffic.sender.cut(cut * 10);
  std::this_thread::sleep_for(cut);
  EXPECT_TRUE(traffic.sender.still_cut() && traffic.receiver.still_cut());

  const auto start = steady_clock::now();
  traffic.receiver.join();
  traffic.sender.join();
  if (nudged) {
    std::vector<UniqueFd> sockets;
    sockets.emplace_back(fcntl(sender.get(), F_DUPFD_CLOEXEC, 0));
    sockets.emplace_back(fcntl(receiver.get(), F_DUPFD_CLOEXEC, 0));
    engine::nudge(std::move(sockets));
  }
  EXPECT_FALSE(receive(receiver, kPatience).empty());
  return steady_clock::now() - start;
}

std::chrono::duration<double> time_of_stream(const PodGroup* group, size_t bytes) {
  if (group != nullptr) group->enter();
  const Pair pair = make_pair(address("127.0.0.1"), SOCK_STREAM);
  leave_pods();
  const auto start = steady_clock::now();
  std::thread sender([&] {
    const std::string block(1 << 20, 'x');
    for (size_t left = bytes; left > 0;) {
      const ssize_t sent = send(pair.near.get(), block.data(), std::min(left, block.size()), 0);
      if (sent <= 0) break;
      left -= static_cast<size_t>(sent);
    }
    shutdown(pair.near.get(), SHUT_WR);
  });
  std::string buffer(1 << 20, '\0');
  size_t received = 0;
  for (ssize_t n = 0; (n = recv(pair.far.get(), buffer.data(), buffer.size(), 0)) > 0;) {
    received += static_cast<size_t>(n);
  }
  sender.join();
  EXPECT_EQ(received, bytes);
  return steady_clock::now() - start;
}

}  // namespace fermata::isolation
