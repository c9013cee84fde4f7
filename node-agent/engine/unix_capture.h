// Records the UNIX sockets of a pod and finds their other ends. One capture, tracer's thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/socket_diag.h"

namespace fermata::engine {

class UnixCapture {
 public:
  /// The socket itself: name, options, unread messages.
  Status record(const FileProbe& probe, CaptureContext& context, image::File& out);
  /// When all are recorded: which two belong together. kCannotHold names those whose other end is
  /// not in the pod.
  Status pair(image::PodObjects& objects) const;

 private:
  Status list();
  Status refuse_file(const image::File& file, std::string_view why) const;
  /// kBusy: of a state that passes by itself.
  Status refuse_now(uint32_t file, std::string_view why) const;
  Status place(image::File& file, const std::map<uint64_t, uint32_t>& waits_at,
               const std::set<std::string>& names) const;
  Status check_sources(const image::File& file, const std::set<std::string>& names) const;

  bool listed_ = false;
  std::map<uint64_t, UnixSocketEntry> entries_;
  std::map<uint32_t, std::string> seen_;  ///< by file id: for sentences
  std::map<uint32_t, int> sent_;          ///< bytes the other end has not read
  std::map<uint64_t, uint32_t> by_inode_;
};

}  // namespace fermata::engine
