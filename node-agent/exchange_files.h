// The two folders of a pod's exchange as files: found below the pod's root, listed, read, written.
// They are the user's. Call everything but the constructor with the owner's rights
// (FsCredentialScope), from one thread: no path is resolved out of the pod, nothing but regular
// files is opened, no file system is entered that was mounted below /dev/shm, and what is read is
// bounded. Any call may still block where the user put a file system of his own over /dev/shm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::node_agent {

class ExchangeFiles {
 public:
  /// `root`: of the pod, opened with O_PATH.
  explicit ExchangeFiles(UniqueFd root) : root_(std::move(root)) {}

  /// Opens the folders. kNotFound: podinit has not made them yet.
  Status open();
  bool is_open() const { return in_.valid(); }
  /// The outbox, for inotify.
  int outbox() const { return out_.get(); }

  /// Names of messages in the outbox, in the order of their numbers, kMaxOutboxFiles at most.
  Result<std::vector<uint64_t>> list_outbox() const;
  /// Contents of a message; nothing when it is gone meanwhile. kCannotHold: it is none (too big, no
  /// regular file).
  Result<std::optional<std::string>> read(uint64_t name) const;
  /// Puts a message into the inbox under a name of its own. kStorage: no room there now.
  Status write(const std::string& message);

 private:
  UniqueFd root_;
  UniqueFd out_;
  UniqueFd in_;
  uint64_t next_ = 1;  ///< name to try for the next message
};

}  // namespace fermata::node_agent
