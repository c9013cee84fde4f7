#include "proto/outcome.h"

namespace fermata::wire {

Outcome to_outcome(const Status& status) {
  Outcome outcome;
  outcome.set_code(static_cast<int>(status.code()));
  outcome.set_message(status.message());
  outcome.set_error_number(status.error_number());
  return outcome;
}

Status to_status(const Outcome& outcome) {
  if (outcome.code() == static_cast<int>(Code::kOk)) return Status::ok();
  const bool known = outcome.code() > 0 && outcome.code() <= static_cast<int>(Code::kConflict);
  return {known ? static_cast<Code>(outcome.code()) : Code::kInternal, outcome.message(),
          outcome.error_number()};
}

}  // namespace fermata::wire
