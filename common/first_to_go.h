// Being the first process that the kernel ends when memory runs out (oom_score_adj, proc(5)).
// All functions: any thread.
#pragma once

#include <string>

namespace fermata {

/// As long as one lives, this process is.
class FirstToGo {
 public:
  FirstToGo();
  FirstToGo(const FirstToGo&) = delete;
  FirstToGo& operator=(const FirstToGo&) = delete;
  ~FirstToGo();
};

/// This process's oom_score_adj while it is not the first to go, as /proc has it. For children that
/// are not to inherit more: whoever forks one asks beforehand.
std::string usual_oom_score();

}  // namespace fermata
