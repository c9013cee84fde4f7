// fermata numa: where threads and memory of a job are, were, and would be.
#include "cli/numa.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

namespace fermata::cli {

std::string percent_text(double percent) { return fmt::format("{:.1f} %", percent); }

void add_numa(CLI::App& app, Invocation& invocation) {
  CLI::App* sub = app.add_subcommand("numa", "Where threads and memory of a job are and will be");
  sub->require_subcommand(1);
  add_numa_plan(*sub, invocation);
  add_numa_report(*sub, invocation);
}

}  // namespace fermata::cli
