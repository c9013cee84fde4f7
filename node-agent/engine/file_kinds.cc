#include "node-agent/engine/file_kinds.h"

namespace fermata::engine {

Status FileKind::finish_capture(CaptureContext&, image::PodObjects&) { return Status::ok(); }

Status FileKind::start_rebuild(const image::PodObjects&, RebuildContext&) { return Status::ok(); }

Status FileKind::bind(RebuildContext&) { return Status::ok(); }

Status FileKind::connect(const image::File&, RebuildContext&) { return Status::ok(); }

Status FileKind::connect_outside(RebuildContext&) { return Status::ok(); }

Status FileKind::begin(RebuildContext&) { return Status::ok(); }

std::vector<std::unique_ptr<FileKind>> make_file_kinds() {
  std::vector<std::unique_ptr<FileKind>> kinds;
  kinds.push_back(make_regular_file_kind());
  kinds.push_back(make_stdio_kind());
  kinds.push_back(make_pipe_kind());
  kinds.push_back(make_eventfd_kind());
  kinds.push_back(make_timerfd_kind());
  kinds.push_back(make_signalfd_kind());
  kinds.push_back(make_epoll_kind());
  kinds.push_back(make_pidfd_kind());
  kinds.push_back(make_unix_socket_kind());
  kinds.push_back(make_tcp_socket_kind());
  kinds.push_back(make_udp_socket_kind());
  kinds.push_back(make_netlink_socket_kind());
  kinds.push_back(make_refused_kind());
  return kinds;
}

}  // namespace fermata::engine
