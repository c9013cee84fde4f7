// The nudge after a cut.
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "node-agent/engine/capture.h"
#include "two_pods.h"

namespace fermata::engine {
namespace {

struct Connection {
  UniqueFd one;
  UniqueFd other;
};

Connection connect_here() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
  Connection made{UniqueFd(::socket(AF_INET, SOCK_STREAM, 0)), UniqueFd()};
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      ::connect(made.one.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    std::abort();
  }
  made.other.reset(::accept(listener.get(), nullptr, nullptr));
  return made;
}

UniqueFd copy_of(const UniqueFd& fd) { return UniqueFd(::dup(fd.get())); }

// Bytes that arrive until `size` are there, or `patience` has passed without any.
size_t count(const UniqueFd& fd, size_t size, int patience_ms) {
  std::string buffer(1 << 16, '\0');
  size_t got = 0;
  while (got < size) {
    pollfd ready{fd.get(), POLLIN, 0};
    if (::poll(&ready, 1, patience_ms) != 1) break;
    const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  return got;
}

// Written behind the cut, and cut for so long that the next attempt of the sender is far away.
TEST(Nudge, Stream_FlowsAtOnce_AfterACut) {
  TwoPods pods({});
  const UniqueFd client = pods.client_fd();
  const UniqueFd server = pods.server_fd();
  for (const int cut_ms : {5, 250, 1500}) {
    pods.cut();
    put(client, pattern(50'000, 1));
    put(server, pattern(50'000, 2));
    std::this_thread::sleep_for(std::chrono::milliseconds(cut_ms));
    ASSERT_OK(pods.take_set());
    pods.client().resume();
    pods.server().resume();
    const auto began = std::chrono::steady_clock::now();
    pods.join();
    EXPECT_TRUE(same(take(server, 50'000), pattern(50'000, 1)));
    EXPECT_TRUE(same(take(client, 50'000), pattern(50'000, 2)));
    const auto took = std::chrono::steady_clock::now() - began;
    // Without a nudge: up to 500 ms; loaded machines are slow.
    EXPECT_LT(took, std::chrono::milliseconds(200));
    RecordProperty("after_" + std::to_string(cut_ms) + "_ms",
                   std::to_string(took / std::chrono::microseconds(1)) + " us");
  }
}

TEST(Nudge, SocketOptions_StayAsTheyWere) {
  const Connection connection = connect_here();
  const int one = 1;
  ::setsockopt(connection.one.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  ::setsockopt(connection.one.get(), IPPROTO_TCP, TCP_CORK, &one, sizeof one);
  ASSERT_EQ(::send(connection.one.get(), "held", 4, 0), 4);
  std::vector<UniqueFd> sockets;
  sockets.push_back(copy_of(connection.one));
  nudge(std::move(sockets));
  EXPECT_EQ(int_option(connection.one, SOL_SOCKET, SO_REUSEADDR), 1);
  EXPECT_EQ(int_option(connection.one, IPPROTO_TCP, TCP_CORK), 1);
  EXPECT_EQ(int_option(connection.one, IPPROTO_TCP, TCP_REPAIR), 0);
  EXPECT_EQ(count(connection.other, 4, 50), 0U) << "corked bytes were sent";
}

// send() and recv() of a program that runs on never fail because of a nudge.
TEST(Nudge, RunningProgram_SeesNothing) {
  const Connection connection = connect_here();
  constexpr size_t kBytes = 64 << 20;
  std::string failure;
  std::thread writer([&] {
    const std::string bytes(4096, 'x');
    for (size_t sent = 0; sent < kBytes && failure.empty();) {
      const ssize_t n = ::send(connection.one.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) failure = "send: errno " + std::to_string(errno);
      if (n > 0) sent += static_cast<size_t>(n);
    }
    ::shutdown(connection.one.get(), SHUT_WR);
  });
  std::thread reader([&] { EXPECT_EQ(count(connection.other, kBytes, 20'000), kBytes); });
  for (int i = 0; i < 2000; ++i) {
    std::vector<UniqueFd> sockets;
    sockets.push_back(copy_of(connection.one));
    sockets.push_back(copy_of(connection.other));
    nudge(std::move(sockets));
  }
  writer.join();
  reader.join();
  EXPECT_EQ(failure, "");
}

TEST(Nudge, ClosedAndResetSockets_StayClosed) {
  Connection ended = connect_here();
  const linger at_once{1, 0};
  ::setsockopt(ended.other.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  ended.other.reset();
  const Connection half = connect_here();
  ::shutdown(half.one.get(), SHUT_WR);
  std::vector<UniqueFd> sockets;
  sockets.push_back(copy_of(ended.one));
  sockets.push_back(copy_of(half.one));
  sockets.push_back(copy_of(half.other));
  sockets.emplace_back(::socket(AF_INET, SOCK_STREAM, 0));
  nudge(std::move(sockets));
  EXPECT_EQ(int_option(ended.one, SOL_SOCKET, SO_ERROR), ECONNRESET);
  EXPECT_EQ(::send(half.other.get(), "back", 4, 0), 4);
  EXPECT_EQ(count(half.one, 4, 3000), 4U);
}

}  // namespace
}  // namespace fermata::engine
