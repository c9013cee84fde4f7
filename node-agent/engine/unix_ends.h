// Makes the UNIX sockets of an image: both ends of a connection at once, by the processes that
// SO_PEERCRED is to show. One rebuild, tracer's thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/unique_fd.h"
#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/unix_queue.h"

namespace fermata::engine {

class UnixEnds {
 public:
  explicit UnixEnds(const UnixFiles& files) : files_(files) {}

  /// kDamaged: not what a capture writes.
  Status check(const image::File& file) const;
  /// The socket, with its name, listening, its other end made as well.
  Result<UniqueFd> make(const image::File& file, RebuildContext& context);
  /// Both ends are in the image, and each is the other's.
  bool is_pair(const image::File& file) const;
  /// The other end of a socket of which it was closed; to be taken once.
  UniqueFd take_closed_end(const image::File& file);

 private:
  Status provide(const image::File& file, RebuildContext& context);
  Status keep(const image::File& file, UniqueFd fd);
  const image::File* listener_named(const std::string& name, int type) const;
  Status make_pair(const image::File& file, const image::File* other, RebuildContext& context);
  Status name_end(const image::File& file, RebuildContext& context);
  Status accept_pair(const image::File& accepted, const image::File* client,
                     RebuildContext& context);

  const UnixFiles& files_;
  std::map<uint32_t, UniqueFd> made_;  ///< one made along with another waits for its own make()
  std::map<uint32_t, UniqueFd> closed_ends_;
};

}  // namespace fermata::engine
