// Names of UNIX sockets: none, abstract, or a path (unix(7)). Bound and connected to by a process
// of the pod, because a path is looked up from its root and directory, and the file made belongs to
// its user. Tracer's thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"
#include "node-agent/engine/remote.h"
#include "proto/files.pb.h"

namespace fermata::engine {

struct UnixName {
  std::string address;    ///< struct sockaddr_un, as many bytes as the name has; empty: no name
  std::string directory;  ///< where a relative path starts

  bool empty() const { return address.empty(); }
  bool is_abstract() const;
  std::string_view path() const;
  /// For sentences: "@name" or the path.
  std::string text() const;
};

UnixName name_of(const image::UnixSocket& socket);

/// kDamaged when the bytes are no name of a UNIX socket.
Status check_name(const UnixName& name);

/// bind(2) of descriptor `fd` of the process. A socket file left at the path is replaced; any other
/// file is kConflict. When `keep` is false, the path is left as it was found: the name alone is
/// wanted.
Status bind_name(Remote& process, int fd, const UnixName& name, uint32_t mode, bool keep);

/// connect(2) likewise.
Status connect_name(Remote& process, int fd, const UnixName& name);

}  // namespace fermata::engine
