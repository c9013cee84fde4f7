// --track and --full-every, of `fermata run` and `fermata restart`. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "common/config.h"

namespace CLI {
class App;
}

namespace fermata::cli {

struct TrackOptions {
  std::string track;        ///< empty: not given
  uint32_t full_every = 0;  ///< 0: not given

  /// What was given, else what the config says.
  std::string track_or(const Config& config) const { return track.empty() ? config.track : track; }
  uint32_t full_every_or(const Config& config) const {
    return full_every == 0 ? config.full_every : full_every;
  }
};

void add_track_options(CLI::App& command, TrackOptions& options);

}  // namespace fermata::cli
