// Streams of numbered bytes both ways over several connections between two pods, through cuts and
// restarts at any moment: no byte is lost, doubled or out of order.
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <vector>

#include "two_pods.h"

namespace fermata::engine {
namespace {

constexpr int kConnections = 4;
constexpr int kEnds = 2 * kConnections;

// The byte at `position` of the stream that `end` sends.
char byte_at(int end, uint64_t position) {
  const uint64_t word = (position / 8 + 1) * 0x9e3779b97f4a7c15U + static_cast<uint64_t>(end) * 77;
  return static_cast<char>(word >> (position % 8 * 8));
}

// What the programs know, which a set holds.
struct Programs {
  std::vector<uint64_t> sent = std::vector<uint64_t>(kEnds, 0);
  std::vector<uint64_t> received = std::vector<uint64_t>(kEnds, 0);
};

class Streams {
 public:
  explicit Streams(unsigned seed) : random_(seed), pods_({.connections = kConnections}) {}

  unsigned below(unsigned limit) {
    return std::uniform_int_distribution<unsigned>(0, limit - 1)(random_);
  }

  // Some of everything, in any order; of the first `ends_that_act` ends.
  void act(int steps, unsigned ends_that_act = kEnds) {
    const std::vector<UniqueFd> ends = descriptors();
    for (int step = 0; step < steps; ++step) {
      const auto end = static_cast<int>(below(ends_that_act));
      const size_t size = 1 + below(below(4) == 0 ? 200'000 : 3'000);
      if (below(2) == 0) {
        send(ends, end, size);
      } else {
        receive(ends, end, size);
      }
      if (below(8) == 0) ::usleep(below(500));
    }
  }

  // The cables are pulled one after the other, while the programs run.
  void take_set() {
    const bool client_first = below(2) == 0;
    cut(client_first);
    act(static_cast<int>(below(12)));
    cut(!client_first);
    act(static_cast<int>(below(12)));
    const Status taken = pods_.take_set_patiently();
    ASSERT_TRUE(taken) << taken.message();
    kept_ = programs_;
    client_ = pods_.client().objects();
    server_ = pods_.server().objects();
    pods_.run_on();
  }

  void restart() {
    pods_.kill();
    programs_ = kept_;
    pods_.client().objects() = client_;
    pods_.server().objects() = server_;
    const unsigned where = below(3);
    if (where == 0) pods_.move();
    if (where == 1) pods_.move_together();
    pods_.in_between = [&] { act(static_cast<int>(below(12)), kConnections); };
    const Status restarted = pods_.restart(below(2) == 0);
    ASSERT_TRUE(restarted) << restarted.message();
  }

  void drain() {
    const std::vector<UniqueFd> ends = descriptors();
    EXPECT_TRUE(eventually([&] {
      bool all = true;
      for (int end = 0; end < kEnds; ++end) {
        receive(ends, end, 1 << 20);
        all = all && programs_.received[static_cast<size_t>(end)] ==
                         programs_.sent[static_cast<size_t>(other(end))];
      }
      return all || ::testing::Test::HasFailure();
    }));
    uint64_t bytes = 0;
    for (const uint64_t one : programs_.sent) bytes += one;
    EXPECT_GT(bytes, 1U << 20);
    ::testing::Test::RecordProperty("bytes", std::to_string(bytes));
  }

 private:
  // Ends of the client are 0 ..., those of the server follow in the same order.
  static int other(int end) { return (end + kConnections) % kEnds; }

  std::vector<UniqueFd> descriptors() {
    std::vector<UniqueFd> ends;
    for (int i = 0; i < kConnections; ++i) ends.push_back(pods_.client_fd(i));
    for (int i = 0; i < kConnections; ++i) ends.push_back(pods_.server_fd(i));
    return ends;
  }

  void cut(bool client) {
    GroupDouble& group = client ? pods_.client_group() : pods_.server_group();
    group.isolation().cut(std::chrono::seconds(60));
  }

  void send(const std::vector<UniqueFd>& ends, int end, size_t size) {
    uint64_t& sent = programs_.sent[static_cast<size_t>(end)];
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = byte_at(end, sent + i);
    const ssize_t n = ::send(ends[static_cast<size_t>(end)].get(), bytes.data(), size,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
      ASSERT_EQ(errno, EAGAIN) << "end " << end;
    } else {
      sent += static_cast<uint64_t>(n);
    }
  }

  void receive(const std::vector<UniqueFd>& ends, int end, size_t size) {
    uint64_t& received = programs_.received[static_cast<size_t>(end)];
    std::string bytes(size, '\0');
    const ssize_t n =
        ::recv(ends[static_cast<size_t>(end)].get(), bytes.data(), size, MSG_DONTWAIT);
    ASSERT_NE(n, 0) << "end " << end << " sees an end of file";
    if (n < 0) {
      ASSERT_EQ(errno, EAGAIN) << "end " << end;
      return;
    }
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      ASSERT_EQ(bytes[i], byte_at(other(end), received + i))
          << "end " << end << ", byte " << received + i;
    }
    received += static_cast<uint64_t>(n);
  }

  std::mt19937 random_;
  TwoPods pods_;
  Programs programs_;
  Programs kept_;
  image::PodObjects client_;
  image::PodObjects server_;
};

class TcpStream : public ::testing::TestWithParam<unsigned> {};

TEST_P(TcpStream, NumberedBytes_SurviveCutsAndRestarts) {
  Streams streams(GetParam());
  for (int round = 0; round < 25 && !HasFailure(); ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    streams.act(40);
    streams.take_set();
    if (HasFailure()) return;
    if (streams.below(3) == 0) continue;
    // The job runs on for a while, which the restart takes back.
    streams.act(static_cast<int>(streams.below(40)));
    if (streams.below(3) == 0) streams.restart();
  }
  if (!HasFailure()) streams.drain();
}

INSTANTIATE_TEST_SUITE_P(Seeds, TcpStream, ::testing::Values(1U, 2U, 3U));

}  // namespace
}  // namespace fermata::engine
