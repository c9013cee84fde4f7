// Where the pages of running processes are, asked before they stop: pages move seldom, and asking
// while the job runs costs it nothing but a little of one CPU. Any thread.
#pragma once

#include <sys/types.h>

#include <map>
#include <vector>

#include "common/status.h"
#include "numa/page_nodes.h"

namespace fermata::numa {

/// Runs by host PID, ascending and not overlapping.
using PageSurvey = std::map<pid_t, std::vector<NodeRun>>;

/// Runs of all memory of a process that is its own or shared between processes; not of files, which
/// the system holds. kGone, kNotFound: it has ended.
Result<std::vector<NodeRun>> survey_process(pid_t pid);

/// Those of them that still run. What goes wrong with one leaves it out.
PageSurvey survey_pages(const std::vector<pid_t>& pids);

/// The part of `runs` in [start, end).
std::vector<NodeRun> clip(const std::vector<NodeRun>& runs, uint64_t start, uint64_t end);

}  // namespace fermata::numa
