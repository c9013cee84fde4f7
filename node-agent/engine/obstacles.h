// What stands in the way of a capture, collected so that the reader sees all of it at once. A
// value; one thread.
#pragma once

#include <string>

#include "common/status.h"

namespace fermata::engine {

class Obstacles {
 public:
  /// A refusal (kCannotHold, kBusy) is kept, and ok is returned; every other status comes back.
  Status note(const Status& status);

  /// Ok when nothing was noted. Else all sentences, one a line: kBusy where every one of them
  /// passes by itself, kCannotHold where one does not.
  Status sum() const;

 private:
  std::string sentences_;
  bool all_pass_ = true;
};

}  // namespace fermata::engine
