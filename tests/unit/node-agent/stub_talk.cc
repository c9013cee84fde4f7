#include "stub_talk.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>

namespace fermata::node_agent::stub_talk {

UniqueFd connect_to(const std::filesystem::path& socket) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, socket.c_str(), socket.native().size() + 1);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd = {};
  return fd;
}

void say(const UniqueFd& fd, const StubFields& fields, const std::vector<int>& with) {
  const std::string text = encode_stub_fields(fields);
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!with.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(with.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(with.size() * sizeof(int));
    memcpy(CMSG_DATA(header), with.data(), with.size() * sizeof(int));
  }
  ASSERT_EQ(sendmsg(fd.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

StubFields hear(const UniqueFd& fd, std::chrono::milliseconds timeout) {
  const timeval limit{timeout.count() / 1000, (timeout.count() % 1000) * 1000};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  std::string text(kLongestStubMessage, '\0');
  const ssize_t got = recv(fd.get(), text.data(), text.size(), 0);
  if (got < 0) return {{"kind", errno == EAGAIN ? "silence" : "gone"}};
  if (got == 0) return {{"kind", "gone"}};
  text.resize(static_cast<size_t>(got));
  return decode_stub_fields(text).value_or(StubFields{});
}

std::string kind_of(const StubFields& said) { return std::string(stub_field(said, "kind")); }

StubFields attach(uint64_t job, uint32_t rank) {
  return {{"version", kStubVersion},
          {"kind", "attach"},
          {"job", std::to_string(job)},
          {"step", "0"},
          {"start", "0"},
          {"rank", std::to_string(rank)}};
}

}  // namespace fermata::node_agent::stub_talk
