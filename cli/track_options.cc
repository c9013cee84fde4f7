#include "cli/track_options.h"

#include <CLI/CLI.hpp>

#include "coord/coordinator.h"

namespace fermata::cli {

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
}

}  // namespace fermata::cli
