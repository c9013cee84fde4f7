#include "cli/checkpoint_verdict.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

namespace fermata::cli {

node_agent::ControlReply verdict_of(const LostCheckpoint& checkpoint) {
  const NewestSet& now = checkpoint.now;
  const bool newer = checkpoint.before < now.crid;
  if (newer && (now.killed || !checkpoint.end_job)) {
    const nlohmann::json out = {
        {"crid", now.crid.value},
        {"committed", true},
        {"sentence", fmt::format("checkpoint {} committed; the coordinator was lost meanwhile",
                                 to_string(now.crid))}};
    return {Status::ok(), out.dump(2)};
  }
  const std::string later =
      fmt::format("look again with `fermata ls --checkpoint-dir {}` when the coordinator is back",
                  checkpoint.dir.native());
  if (newer) {
    return {
        checkpoint.lost.within(fmt::format(
            "checkpoint {} is committed, but the job was not ended with it{}", to_string(now.crid),
            checkpoint.back ? ": the coordinator was lost meanwhile" : " so far: " + later)),
        {}};
  }
  return {checkpoint.lost.within(checkpoint.back
                                     ? "nothing was committed: the coordinator was lost meanwhile"
                                     : "nothing is committed yet: " + later),
          {}};
}

}  // namespace fermata::cli
