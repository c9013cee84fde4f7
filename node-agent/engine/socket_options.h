// Options and buffer sizes of sockets: read from a live one, applied to a rebuilt one. Only options
// of one table are ever applied, whatever an image says. Any thread.
#pragma once

#include "common/status.h"
#include "proto/files.pb.h"

namespace fermata::engine {

/// Reads every option of the table that differs from that of a new socket of the same kind, and the
/// buffers.
Status capture_options(int fd, image::SocketOptions& out);

/// Those that have to stand before the socket is bound or connected. Buffers are at least as
/// recorded.
Status apply_options_early(int fd, const image::SocketOptions& options);
/// The others, and buffers exactly as recorded: when the queues are filled.
Status apply_options_late(int fd, const image::SocketOptions& options);

/// Room for `send` and `receive` bytes more than now (SO_*BUFFORCE); apply_options_late() takes it
/// back.
Status make_room(int fd, size_t send, size_t receive);

}  // namespace fermata::engine
