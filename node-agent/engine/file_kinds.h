// Makers of the kinds, one for each source file. make_file_kinds() (file_kind.h) asks them in
// order.
#pragma once

#include <memory>

#include "node-agent/engine/file_kind.h"

namespace fermata::engine {

std::unique_ptr<FileKind> make_regular_file_kind();
std::unique_ptr<FileKind> make_stdio_kind();
std::unique_ptr<FileKind> make_pipe_kind();
std::unique_ptr<FileKind> make_eventfd_kind();
std::unique_ptr<FileKind> make_timerfd_kind();
std::unique_ptr<FileKind> make_signalfd_kind();
std::unique_ptr<FileKind> make_epoll_kind();
std::unique_ptr<FileKind> make_pidfd_kind();
std::unique_ptr<FileKind> make_unix_socket_kind();
std::unique_ptr<FileKind> make_tcp_socket_kind();
std::unique_ptr<FileKind> make_udp_socket_kind();
std::unique_ptr<FileKind> make_netlink_socket_kind();
/// Takes what no other kind takes, to refuse it by name.
std::unique_ptr<FileKind> make_refused_kind();

}  // namespace fermata::engine
