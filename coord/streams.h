// Files of a job's stdout and stderr. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "proto/store.pb.h"

namespace fermata::coord {

/// As in Streams: absolute, in `folder` where `name` is not; empty: `fallback` in it.
std::string stream_path(std::string_view name, std::string_view folder, std::string_view fallback);

/// The file names of the job's stdout, each once: %j, %s, %n and %N are the job, step, pod and
/// host; %% is a percent sign.
std::vector<std::string> output_files(const stored::Job& job);

}  // namespace fermata::coord
