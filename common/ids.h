// Identifiers: CRIDs and job steps. Plain values.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// Checkpoint/restart id: unique, increasing, never reused. 0 is "none" (as the parent of a full
/// set).
struct Crid {
  uint64_t value = 0;
  auto operator<=>(const Crid&) const = default;
};

/// A step of a job, printed "1234.0" as Slurm does.
struct JobStep {
  uint64_t job = 0;
  uint32_t step = 0;
  auto operator<=>(const JobStep&) const = default;
};

/// One pod of a step, and which start of the step it is of (0: the first).
struct PodId {
  JobStep step;
  uint32_t pod = 0;
  uint32_t start = 0;
  auto operator<=>(const PodId&) const = default;
};

std::string to_string(Crid crid);
std::string to_string(JobStep step);
/// "1234.0/2": pod 2; "1234.0/2+1": of the second start.
std::string to_string(const PodId& pod);

/// Decimal digits only, 1 to 2^64-1.
Result<Crid> parse_crid(std::string_view text);
/// "1234" (step 0) or "1234.2".
Result<JobStep> parse_job_step(std::string_view text);

}  // namespace fermata
