// UNIX sockets: pairs, connections by name, listeners, datagrams; what is unread keeps its
// boundaries and senders.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "pod_double.h"

namespace fermata::engine {
namespace {

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

class UnixSockets : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "fermata-unix-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

struct Address {
  sockaddr_un name{};
  socklen_t size = 0;
  explicit Address(const std::string& text) {  // "@x": abstract
    name.sun_family = AF_UNIX;
    text.copy(name.sun_path, sizeof name.sun_path - 1);
    if (text[0] == '@') name.sun_path[0] = '\0';
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size() +
                                  (text[0] == '@' ? 0 : 1));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

int make_bound(int type, const std::string& text) {
  const int fd = ::socket(AF_UNIX, type, 0);
  const Address address(text);
  if (::bind(fd, address.get(), address.size) != 0) std::abort();
  return fd;
}

int make_connected(int type, const std::string& text) {
  const int fd = ::socket(AF_UNIX, type, 0);
  const Address address(text);
  if (::connect(fd, address.get(), address.size) != 0) std::abort();
  return fd;
}

void put(int fd, const std::string& text) {
  if (::send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) !=
      static_cast<ssize_t>(text.size())) {
    std::abort();
  }
}

std::string take(const UniqueFd& fd) {
  std::string buffer(1 << 20, '\0');
  const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0) return std::string("errno ") + std::to_string(errno);
  buffer.resize(static_cast<size_t>(n));
  return buffer;
}

std::string name_of(const UniqueFd& fd, bool peer) {
  sockaddr_un name{};
  socklen_t size = sizeof name;
  auto* generic = reinterpret_cast<sockaddr*>(&name);
  if ((peer ? ::getpeername(fd.get(), generic, &size) : ::getsockname(fd.get(), generic, &size)) !=
      0) {
    return "none";
  }
  std::string text(name.sun_path, size - offsetof(sockaddr_un, sun_path));
  if (!text.empty() && text[0] == '\0') text[0] = '@';
  return text.substr(0, text.find(char{0}, 1));
}

TEST_F(UnixSockets, StreamPair_KeepsBothQueues) {
  PodDouble pod([] {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::abort();
    put(ends[0], "to four, ");
    put(ends[0], std::string(50000, 'x'));
    put(ends[1], "to three");
    ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(take(pod.fd(1, 4)), "to four, " + std::string(50000, 'x'));
  EXPECT_EQ(take(pod.fd(1, 3)), "to three");
  put(pod.fd(1, 3).get(), "again");
  EXPECT_EQ(take(pod.fd(1, 4)), "again");
  EXPECT_NE(::fcntl(pod.fd(1, 4).get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(pod.fd(1, 3).get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(UnixSockets, MessagesKeepTheirBoundaries) {
  for (const int type : {SOCK_SEQPACKET, SOCK_DGRAM}) {
    PodDouble pod([type] {
      int ends[2];
      if (::socketpair(AF_UNIX, type, 0, ends) != 0) std::abort();
      put(ends[0], "");
      put(ends[0], "one");
      put(ends[0], std::string(5000, '2'));
      put(ends[0], "three");
    });
    ASSERT_OK(pod.capture());
    pod.resume();
    ASSERT_OK(pod.capture());  // the first look has left everything in place
    ASSERT_OK(pod.rebuild());
    const UniqueFd reader = pod.fd(1, 4);
    EXPECT_EQ(take(reader), "");
    EXPECT_EQ(take(reader), "one");
    EXPECT_EQ(take(reader), std::string(5000, '2'));
    EXPECT_EQ(take(reader), "three");
    EXPECT_EQ(take(reader), "errno " + std::to_string(EAGAIN));
    int offset = 0;
    socklen_t size = sizeof offset;
    ::getsockopt(reader.get(), SOL_SOCKET, SO_PEEK_OFF, &offset, &size);
    EXPECT_EQ(offset, -1);
  }
}

TEST_F(UnixSockets, HalfClosedAndClosedPeers_ReadToTheEnd) {
  PodDouble pod([] {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::abort();  // 3, 4
    put(ends[0], "half");
    ::shutdown(ends[0], SHUT_WR);
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::abort();  // 5, 6
    put(ends[1], "closed");
    ::close(ends[1]);
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) std::abort();  // 6, 7
    put(ends[0], "unread");
    ::close(ends[1]);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(take(pod.fd(1, 4)), "half");
  EXPECT_EQ(take(pod.fd(1, 4)), "");
  put(pod.fd(1, 4).get(), "back");
  EXPECT_EQ(take(pod.fd(1, 3)), "back");
  EXPECT_EQ(take(pod.fd(1, 5)), "closed");
  EXPECT_EQ(take(pod.fd(1, 5)), "");
  EXPECT_EQ(take(pod.fd(1, 6)), "errno " + std::to_string(ECONNRESET));
}

TEST_F(UnixSockets, ConnectionsByName_KeepNamesAndListener) {
  const std::string path = dir_ + "/socket";
  const std::string abstract = "@fermata-test-" + std::to_string(::getpid());
  PodDouble pod([&] {
    for (const std::string& name : {path, abstract}) {
      const int listener = make_bound(SOCK_STREAM, name);  // 3, 6
      if (::listen(listener, 5) != 0) std::abort();
      const int client = make_connected(SOCK_STREAM, name);     // 4, 7
      const int server = ::accept(listener, nullptr, nullptr);  // 5, 8
      put(client, "question");
      put(server, "answer");
    }
    ::chmod(path.c_str(), 0642);
    make_connected(SOCK_STREAM, path);  // 9: not accepted yet
  });
  ASSERT_OK(pod.cut_and_rebuild());
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0642U);
  for (const int first : {3, 6}) {
    const std::string& name = first == 3 ? path : abstract;
    EXPECT_EQ(name_of(pod.fd(1, first), false), name);
    EXPECT_EQ(name_of(pod.fd(1, first + 1), true), name);
    EXPECT_EQ(name_of(pod.fd(1, first + 2), false), name);
    EXPECT_EQ(take(pod.fd(1, first + 2)), "question");
    EXPECT_EQ(take(pod.fd(1, first + 1)), "answer");
  }
  const UniqueFd accepted(::accept(pod.fd(1, 3).get(), nullptr, nullptr));
  ASSERT_GE(accepted.get(), 0);
  put(pod.fd(1, 9).get(), "late");
  EXPECT_EQ(take(accepted), "late");
  const UniqueFd fresh(make_connected(SOCK_STREAM, path));
  EXPECT_TRUE(fresh);
}

TEST_F(UnixSockets, AcceptedConnection_OutlivesItsListener) {
  const std::string path = dir_ + "/socket";
  PodDouble pod([&] {
    const int listener = make_bound(SOCK_STREAM, path);
    if (::listen(listener, 5) != 0) std::abort();
    const int client = make_connected(SOCK_STREAM, path);
    ::accept(listener, nullptr, nullptr);
    ::close(listener);
    ::unlink(path.c_str());
    put(client, "still here");
  });
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(take(pod.fd(1, 5)), "still here");
  EXPECT_EQ(name_of(pod.fd(1, 5), false), path);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(UnixSockets, Datagrams_KeepSendersAndOrder) {
  const std::string one = dir_ + "/one";
  const std::string two = "@fermata-two-" + std::to_string(::getpid());
  PodDouble pod([&] {
    const int receiver = make_bound(SOCK_DGRAM, one);     // 3
    const int named = make_bound(SOCK_DGRAM, two);        // 4
    const int unnamed = make_connected(SOCK_DGRAM, one);  // 5
    const Address to(one);
    if (::sendto(named, "first", 5, 0, to.get(), to.size) != 5) std::abort();
    put(unnamed, "second");
    (void)receiver;
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd receiver = pod.fd(1, 3);
  sockaddr_un source{};
  socklen_t size = sizeof source;
  char buffer[16] = {};
  ASSERT_EQ(::recvfrom(receiver.get(), buffer, sizeof buffer, MSG_DONTWAIT,
                       reinterpret_cast<sockaddr*>(&source), &size),
            5);
  EXPECT_EQ(std::string(source.sun_path + 1, size - offsetof(sockaddr_un, sun_path) - 1),
            two.substr(1));
  EXPECT_EQ(take(receiver), "second");
  put(pod.fd(1, 5).get(), "third");
  EXPECT_EQ(take(receiver), "third");
}

TEST_F(UnixSockets, PeerCredentials_AreThoseOfThePodsProcesses) {
  const std::string path = dir_ + "/socket";
  PodDouble pod([&] {
    const int listener = make_bound(SOCK_STREAM, path);
    if (::listen(listener, 5) != 0) std::abort();
    if (::fork() == 0) {
      ::close(listener);
      make_connected(SOCK_STREAM, path);
      for (;;) ::pause();
    }
    ::accept(listener, nullptr, nullptr);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  ucred peer{};
  socklen_t size = sizeof peer;
  ASSERT_EQ(::getsockopt(pod.fd(1, 4).get(), SOL_SOCKET, SO_PEERCRED, &peer, &size), 0);
  EXPECT_EQ(peer.pid, pod.pids()[1]);
  ASSERT_EQ(::getsockopt(pod.fd(2, 3).get(), SOL_SOCKET, SO_PEERCRED, &peer, &size), 0);
  EXPECT_EQ(peer.pid, pod.pids()[0]);
}

TEST_F(UnixSockets, MessageCredentials_NameTheSender) {
  PodDouble pod([] {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) != 0) std::abort();
    const int one = 1;
    ::setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    put(ends[0], "who");
  });
  ASSERT_OK(pod.cut_and_rebuild());
  char buffer[16];
  iovec vector{buffer, sizeof buffer};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ASSERT_EQ(::recvmsg(pod.fd(1, 4).get(), &header, MSG_DONTWAIT), 3);
  const cmsghdr* part = CMSG_FIRSTHDR(&header);
  ASSERT_NE(part, nullptr);
  ucred sender{};
  std::memcpy(&sender, CMSG_DATA(part), sizeof sender);
  EXPECT_EQ(sender.pid, pod.pids()[0]);
}

TEST_F(UnixSockets, ConnectionToTheOutside_IsRefusedWithItsPath) {
  const std::string path = dir_ + "/outside";
  const UniqueFd listener(make_bound(SOCK_STREAM, path));
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  PodDouble pod([&] { make_connected(SOCK_STREAM, path); });
  const UniqueFd accepted(::accept(listener.get(), nullptr, nullptr));
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
}

TEST_F(UnixSockets, DescriptorUnderWay_IsRefused) {
  PodDouble pod([] {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) std::abort();
    char byte = 'x';
    iovec vector{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &ends[0], sizeof(int));
    if (::sendmsg(ends[0], &header, 0) != 1) std::abort();
  });
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("SCM_RIGHTS"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace fermata::engine
