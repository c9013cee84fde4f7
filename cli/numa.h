// The parts of `fermata numa`. One thread.
#pragma once

#include "cli/command.h"

namespace fermata::cli {

void add_numa_plan(CLI::App& numa, Invocation& invocation);
void add_numa_report(CLI::App& numa, Invocation& invocation);

/// "97.5 %".
std::string percent_text(double percent);

}  // namespace fermata::cli
