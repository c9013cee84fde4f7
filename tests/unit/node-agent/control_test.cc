#include "node-agent/control.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

using testing::HasSubstr;

class ControlTest : public testing::Test {
 protected:
  std::filesystem::path path() const { return scratch_.path() / "control"; }

  ControlServer listen() const {
    Result<ControlServer> server = ControlServer::listen(path(), getuid());
    EXPECT_TRUE(server) << server.error().message();
    return *std::move(server);
  }

  static std::optional<ControlCall> wait_for_call(ControlServer& server) {
    pollfd readable{server.fd(), POLLIN, 0};
    poll(&readable, 1, 5000);
    return server.accept();
  }

  /// Sends raw bytes to the socket; the descriptor stays open.
  UniqueFd send_raw(std::string_view bytes) const {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path().c_str());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return fd;
  }

  ScratchFolder scratch_;
};

std::string framed(const std::string& text) {
  const uint32_t length = htonl(static_cast<uint32_t>(text.size()));
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

TEST_F(ControlTest, RequestAndReplyArriveWhole) {
  ControlServer server = listen();
  const std::string long_body(1'000'000, 'x');
  std::thread serving([&] {
    std::optional<ControlCall> call = wait_for_call(server);
    ASSERT_TRUE(call);
    EXPECT_EQ(call->request().kind, ControlRequest::Kind::kCheckpoint);
    EXPECT_TRUE(call->request().end_job);
    call->reply({Status(Code::kCannotHold, "process 3 holds a lease"), long_body});
  });
  const Result<ControlReply> reply = ask(path(), {ControlRequest::Kind::kCheckpoint, true});
  serving.join();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->status.code(), Code::kCannotHold);
  EXPECT_EQ(reply->status.message(), "process 3 holds a lease");
  EXPECT_EQ(reply->body, long_body);
}

TEST_F(ControlTest, AbleIsToldFromCheckpoint) {
  ControlServer server = listen();
  std::thread serving([&] {
    std::optional<ControlCall> call = wait_for_call(server);
    ASSERT_TRUE(call);
    EXPECT_EQ(call->request().kind, ControlRequest::Kind::kAble);
    call->reply({Status::ok(), "{}"});
  });
  EXPECT_TRUE(ask(path(), {ControlRequest::Kind::kAble, false}));
  serving.join();
}

TEST_F(ControlTest, NobodyThereIsGone) {
  const Result<ControlReply> reply = ask(path(), {});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Code::kGone);
}

TEST_F(ControlTest, ServerThatDiesBeforeItsReplyIsGone) {
  ControlServer server = listen();
  std::thread serving([&] { EXPECT_TRUE(wait_for_call(server)); });
  const Result<ControlReply> reply = ask(path(), {});
  serving.join();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Code::kGone);
}

TEST_F(ControlTest, SocketOfADeadServerIsReplaced) {
  { const ControlServer dead = listen(); }
  ASSERT_TRUE(std::filesystem::exists(path()));
  ControlServer server = listen();
  std::thread serving([&] { wait_for_call(server)->reply({}); });
  EXPECT_TRUE(ask(path(), {}));
  serving.join();
}

TEST_F(ControlTest, MalformedRequestsAreRefused_AndTheServerServesOn) {
  ControlServer server = listen();
  for (const std::string& bytes :
       {std::string("\xff\xff\xff\xff junk"), framed("not json"), framed("[1]"), framed("{}"),
        framed(R"({"command": 7})"), framed(R"({"command": "checkpoint", "end_job": "yes"})"),
        framed(R"({"command": "format-disk"})")}) {
    const UniqueFd peer = send_raw(bytes);
    EXPECT_FALSE(wait_for_call(server)) << bytes;
  }
  std::thread serving([&] { wait_for_call(server)->reply({}); });
  EXPECT_TRUE(ask(path(), {}));
  serving.join();
}

TEST_F(ControlTest, OtherUsersAreRefused) {
  if (getuid() == 0) {
    // Root may always ask: become somebody else to be refused.
    ControlServer server = listen();
    ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
    std::thread serving([&] { EXPECT_FALSE(wait_for_call(server)); });
    Result<ControlReply> reply;
    std::thread other([&] {
      // Of this thread only: the raw call, not libc's.
      ASSERT_EQ(syscall(SYS_setresuid, 65534, 65534, 65534), 0);
      reply = ask(path(), {});
    });
    other.join();
    serving.join();
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ(reply->status.code(), Code::kPermission);
  } else {
    Result<ControlServer> server = ControlServer::listen(path(), getuid() + 1);
    ASSERT_TRUE(server);
    std::thread serving([&] { EXPECT_FALSE(wait_for_call(*server)); });
    const Result<ControlReply> reply = ask(path(), {});
    serving.join();
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ(reply->status.code(), Code::kPermission);
  }
}

}  // namespace
}  // namespace fermata::node_agent
