// Names of the files that a job's output goes to. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "common/ids.h"

namespace fermata {

/// %j, %s, %n and %N are the job, step, pod and `host`; %% is a percent sign, and what follows any
/// other stays as it is.
std::string expand_stream_name(std::string_view name, const PodId& pod, std::string_view host);

}  // namespace fermata
