// --track, --full-every and --precopy, of `fermata run` and `fermata restart`. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/config.h"
#include "common/status.h"

namespace CLI {
class App;
}

namespace fermata::cli {

struct TrackOptions {
  std::string track;        ///< empty: not given
  uint32_t full_every = 0;  ///< 0: not given
  std::optional<uint32_t> precopy;

  /// What was given, else what the config says.
  std::string track_or(const Config& config) const { return track.empty() ? config.track : track; }
  uint32_t full_every_or(const Config& config) const {
    return full_every == 0 ? config.full_every : full_every;
  }
  /// kUsage when one was given that only jobs of this machine alone have.
  Status refuse_local_ones() const;
  uint32_t precopy_or(const Config& config) const { return precopy.value_or(config.precopy); }
};

void add_track_options(CLI::App& command, TrackOptions& options);

}  // namespace fermata::cli
