#include "common/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <string>

#include "tests/support/scratch_folder.h"

namespace fermata {
namespace {

TEST(StopTakesLonger, SystemdIsAskedForMoreTime) {
  const ScratchFolder folder;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = (folder.path() / "notify").string();
  ASSERT_LT(path.size(), sizeof address.sun_path);
  path.copy(address.sun_path, path.size());
  const UniqueFd systemd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(systemd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(setenv("NOTIFY_SOCKET", path.c_str(), 1), 0);
  stop_takes_longer();
  ASSERT_EQ(unsetenv("NOTIFY_SOCKET"), 0);
  std::array<char, 256> said{};
  const ssize_t length = recv(systemd.get(), said.data(), said.size(), MSG_DONTWAIT);
  ASSERT_GT(length, 0);
  EXPECT_THAT(std::string(said.data(), static_cast<size_t>(length)),
              ::testing::StartsWith("EXTEND_TIMEOUT_USEC=60000000"));
}

}  // namespace
}  // namespace fermata
