// A program's connection to Slurm: its configuration is read, and failures are in our form. One
// thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace fermata::slurm {

/// While it lives, libslurm may be called.
class Connection {
 public:
  Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();
};

/// What Slurm says of the call that failed last: "what: sentence".
Status failed(std::string_view what);

/// "n[1-2,7]" as n1, n2, n7.
std::vector<std::string> expand(const char* nodes);

}  // namespace fermata::slurm
