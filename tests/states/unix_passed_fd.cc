// Descriptors in flight: sent by SCM_RIGHTS, not yet received at the cut.
#include <sys/socket.h>

#include "tests/states/state.h"

int main() {
  int pair[2];
  int ends[2];
  state::must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  state::must(pipe(ends), "pipe");
  char byte = 'f';
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
  state::must(sendmsg(pair[0], &message, 0), "sendmsg");
  close(ends[1]);
  state::hold();
  memset(control, 0, sizeof control);
  CHECK(recvmsg(pair[1], &message, 0) == 1 && byte == 'f', "the byte is gone");
  header = CMSG_FIRSTHDR(&message);
  CHECK(header != nullptr && header->cmsg_type == SCM_RIGHTS, "the descriptor is gone");
  int received = -1;
  memcpy(&received, CMSG_DATA(header), sizeof(int));
  state::must(write(received, "x", 1), "write to the received descriptor");
  CHECK(read(ends[0], &byte, 1) == 1 && byte == 'x', "the descriptor leads elsewhere");
  state::pass();
}
