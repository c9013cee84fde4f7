// What is said of a checkpoint whose coordinator was lost while it took it, by what stands in the
// checkpoint folder before and after. Pure functions; any thread.
#pragma once

#include <filesystem>

#include "common/ids.h"
#include "node-agent/control.h"

namespace fermata::cli {

/// The newest committed set of a job; CRID 0: it has none.
struct NewestSet {
  Crid crid;
  bool killed = false;  ///< it was the job's last: it was ended with it, as asked
};

struct LostCheckpoint {
  Status lost;           ///< how the request was answered
  bool end_job = false;  ///< as it was asked for
  std::filesystem::path dir;
  Crid before;  ///< the newest set when it was asked
  NewestSet now;
  bool back = false;  ///< a coordinator answers again, and is at no set of the job
};

/// Of a committed checkpoint, or kGone with what is known and where to look. Where the job was to
/// be ended, a set of an interval that came in between is not the one that was asked for.
node_agent::ControlReply verdict_of(const LostCheckpoint& checkpoint);

}  // namespace fermata::cli
