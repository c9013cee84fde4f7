// States of a TCP socket as tcp_info and sock_diag tell them. Any thread.
#pragma once

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>

namespace fermata::engine {

// enum of <netinet/tcp.h>, which cannot be included beside <linux/tcp.h>.
enum TcpState : int {
  kEstablished = 1,
  kSynSent,
  kSynReceived,
  kFinWait1,
  kFinWait2,
  kTimeWait,
  kClose,
  kCloseWait,
  kLastAck,
  kListen,
  kClosing
};

inline bool has_sent_fin(int state) {
  return state == kFinWait1 || state == kFinWait2 || state == kClosing || state == kLastAck;
}
inline bool has_received_fin(int state) {
  return state == kCloseWait || state == kLastAck || state == kClosing;
}

/// "established", "close-wait", ...
inline const char* tcp_state_name(int state) {
  constexpr std::array kNames{"?",          "established", "syn-sent",  "syn-received",
                              "fin-wait-1", "fin-wait-2",  "time-wait", "closed",
                              "close-wait", "last-ack",    "listening", "closing"};
  return state > 0 && state < static_cast<int>(kNames.size())
             ? kNames.at(static_cast<size_t>(state))
             : kNames[0];
}

inline tcp_info tcp_info_of(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  return info;
}

}  // namespace fermata::engine
