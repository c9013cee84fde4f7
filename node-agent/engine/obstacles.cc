#include "node-agent/engine/obstacles.h"

namespace fermata::engine {

Status Obstacles::note(const Status& status) {
  const bool passes = status.code() == Code::kBusy;
  if (!passes && status.code() != Code::kCannotHold) return status;
  all_pass_ = all_pass_ && passes;
  if (!sentences_.empty()) sentences_ += '\n';
  sentences_ += status.message();
  return Status::ok();
}

Status Obstacles::sum() const {
  if (sentences_.empty()) return Status::ok();
  return {all_pass_ ? Code::kBusy : Code::kCannotHold, sentences_};
}

}  // namespace fermata::engine
