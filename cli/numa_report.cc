// fermata numa report: where threads and memory of a running job are, against the plan of its
// restart.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/listing.h"
#include "cli/numa.h"
#include "common/size_parse.h"
#include "node-agent/observed_placement.h"
#include "node-agent/pod_placer.h"
#include "numa/comparison.h"
#include "numa/locality.h"
#include "numa/picture.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

struct Options {
  std::string job;
  bool json = false;
};

struct Report {
  image::Placement found;
  numa::Locality locality;
  std::optional<numa::Comparison> comparison;  // nullopt: it was never restarted, or without a plan
};

Result<Report> make_report(const Invocation& invocation, const node_agent::JobRecord& record) {
  Report report;
  FERMATA_ASSIGN(report.found, node_agent::observe_placement(record.group));
  FERMATA_ASSIGN(const numa::Machine machine, numa::machine_of(report.found.machine()));
  FERMATA_ASSIGN(report.locality, numa::locality_of(report.found, machine));
  const std::filesystem::path file =
      record.service ? record.placement
                     : invocation.registry().control_socket(record.job).parent_path() / "placement";
  const Result<image::Placement> planned = node_agent::PodPlacer::load(file);
  if (planned && planned->has_machine()) {
    FERMATA_ASSIGN(report.comparison, numa::compare(*planned, report.found));
  } else if (!planned && planned.error().code() != Code::kNotFound) {
    return Failure(planned.error());
  }
  return report;
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 100.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

const numa::ProcessComparison* of_process(const Report& report, int vpid) {
  if (!report.comparison) return nullptr;
  for (const numa::ProcessComparison& one : report.comparison->processes) {
    if (one.vpid == vpid) return &one;
  }
  return nullptr;
}

void print_report(const std::string& name, const Report& report) {
  const auto line = [](const std::string& text) { std::puts(storage::printable(text).c_str()); };
  line(fmt::format("{}: {} of {} local to its threads", name,
                   percent_text(report.locality.percent()), format_size(report.locality.bytes)));
  if (report.comparison) {
    const numa::ProcessComparison& all = report.comparison->all;
    line(fmt::format(
        "as planned at its restart: {} of {} threads, {} of {}; not in the plan: {} "
        "threads, {}",
        all.threads_in_place, all.threads, percent_text(share(all.bytes_in_place, all.bytes)),
        format_size(all.bytes), all.new_threads, format_size(all.new_bytes)));
  } else {
    line("no plan: the job was not restarted, or with --numa ignore");
  }
  std::puts("");
  line(fmt::format("{:>8} {:>8} {:>12} {:>8} {:>12} {:>12}", "PROCESS", "THREADS", "MEMORY",
                   "LOCAL", "CPUS AS", "MEMORY AS"));
  line(fmt::format("{:>8} {:>8} {:>12} {:>8} {:>12} {:>12}", "", "", "", "", "PLANNED", "PLANNED"));
  std::map<int, size_t> threads;
  for (const image::ThreadPlacement& thread : report.found.threads()) ++threads[thread.vpid()];
  for (const numa::ProcessLocality& process : report.locality.processes) {
    const numa::ProcessComparison* plan = of_process(report, process.vpid);
    line(fmt::format("{:>8} {:>8} {:>12} {:>8} {:>12} {:>12}", process.vpid, threads[process.vpid],
                     format_size(process.bytes), percent_text(share(process.local, process.bytes)),
                     plan == nullptr ? std::string("-")
                                     : fmt::format("{}/{}", plan->threads_in_place, plan->threads),
                     plan == nullptr ? std::string("-")
                                     : percent_text(share(plan->bytes_in_place, plan->bytes))));
  }
}

json to_json(const node_agent::JobRecord& record, const Report& report) {
  json out = {{"job", to_string(record.job)},
              {"pod", record.pod},
              {"bytes", report.locality.bytes},
              {"local_percent", report.locality.percent()},
              {"planned", report.comparison.has_value()},
              {"processes", json::array()}};
  if (report.comparison) {
    const numa::ProcessComparison& all = report.comparison->all;
    out["threads"] = all.threads;
    out["threads_in_place"] = all.threads_in_place;
    out["bytes_planned"] = all.bytes;
    out["bytes_in_place"] = all.bytes_in_place;
    out["in_place_percent"] = share(all.bytes_in_place, all.bytes);
  }
  for (const numa::ProcessLocality& process : report.locality.processes) {
    json one = {{"process", process.vpid}, {"bytes", process.bytes}, {"local", process.local}};
    if (const numa::ProcessComparison* plan = of_process(report, process.vpid)) {
      one["threads"] = plan->threads;
      one["threads_in_place"] = plan->threads_in_place;
      one["bytes_planned"] = plan->bytes;
      one["bytes_in_place"] = plan->bytes_in_place;
    }
    out["processes"].push_back(std::move(one));
  }
  return out;
}

Result<int> report(const Invocation& invocation, const Options& options) {
  FERMATA_ASSIGN(const JobStep job, parse_job_step(options.job));
  FERMATA_ASSIGN(const std::vector<node_agent::JobRecord> pods, invocation.registry().pods(job));
  json all = json::array();
  for (const node_agent::JobRecord& record : pods) {
    FERMATA_ASSIGN(const Report report, make_report(invocation, record));
    if (options.json) {
      all.push_back(to_json(record, report));
      continue;
    }
    if (&record != &pods.front()) std::puts("");
    const std::string name = fmt::format("job {}", to_string(job));
    print_report(pods.size() == 1 ? name : fmt::format("{}, pod {}", name, record.pod), report);
    FERMATA_ASSIGN(const std::string picture, numa::picture_text(report.found));
    std::printf("\n%s", picture.c_str());
  }
  if (options.json) print_json(all.size() == 1 ? all.front() : all);
  return 0;
}

}  // namespace

void add_numa_report(CLI::App& numa, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = numa.add_subcommand(
      "report", "Tell where threads and memory of a running job are, against the plan");
  sub->add_option("JOB", options->job, "The job: 12 or 12.0")->required();
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      if (options->json) tell_failures_as_json();
      const Result<int> status = report(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
