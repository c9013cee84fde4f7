// Copies to stdout what a job appends to its output files. One thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/unique_fd.h"

namespace fermata::cli {

class Follower {
 public:
  /// Begins with the byte at `from`.
  void add(const std::string& file, off_t from);
  /// Copies what has come; a file that is not there yet is looked for again.
  void pump();

 private:
  struct File {
    std::string path;
    off_t at = 0;
    UniqueFd fd;
  };
  std::vector<File> files_;
};

/// Size of a file; 0 where there is none.
off_t size_of(const std::string& file);

}  // namespace fermata::cli
