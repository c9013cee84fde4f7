#include "cli/track_options.h"

#include <CLI/CLI.hpp>

#include "coord/coordinator.h"

namespace fermata::cli {

Status TrackOptions::refuse_local_ones() const {
  if (!precopy) return Status::ok();
  return {Code::kUsage,
          "--precopy is for jobs of this machine alone (--coordinator \"\"); with a coordinator "
          "each node's config file says it (precopy)"};
}

void add_track_options(CLI::App& command, TrackOptions& options) {
  command
      .add_option("--track", options.track,
                  "How writes to memory are noticed, so that a checkpoint holds only what changed: "
                  "auto, uffd, soft-dirty, hash, none [the config file, auto]")
      ->check(CLI::IsMember({"auto", "uffd", "soft-dirty", "hash", "none"}))
      ->type_name("HOW");
  command
      .add_option("--full-every", options.full_every,
                  "Every Nth checkpoint is a full one, 1: all [the config file, 10]")
      ->check(CLI::Range(1U, coord::kFullEveryMost))
      ->type_name("N");
  command
      .add_option(
          "--precopy", options.precopy,
          "Before a checkpoint copy memory while the job runs, in at most N rounds, so that "
          "it stands still for what was written since; 0: not [the config file, 0]")
      ->check(CLI::Range(0U, kMostPrecopyRounds))
      ->type_name("N");
}

}  // namespace fermata::cli
