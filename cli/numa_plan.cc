// fermata numa plan: where a restart would put threads and memory of a checkpoint, here or on a
// machine that is only described.
#include <fmt/format.h>
#include <sys/auxv.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "cli/listing.h"
#include "cli/numa.h"
#include "common/size_parse.h"
#include "coord/coordinator.h"
#include "numa/picture.h"
#include "numa/plan.h"
#include "storage/image_reader.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

struct Options {
  uint64_t crid = 0;
  std::string dir;
  std::string on;
  std::string mode = "replan";
  std::string svg;
  bool json = false;
};

/// One line of the table of threads: all threads of a process that go the same way.
using Way = std::tuple<int, std::string, std::string>;  // process, CPUs before, CPUs here

std::map<Way, size_t> ways_of(const image::Placement& saved, const image::Placement& planned) {
  std::map<Way, size_t> ways;
  for (int i = 0; i < std::min(saved.threads_size(), planned.threads_size()); ++i) {
    ++ways[{saved.threads(i).vpid(), saved.threads(i).cpuset(), planned.threads(i).cpuset()}];
  }
  return ways;
}

std::string nodes_text(const image::PageRun& run) {
  return run.nodes().empty() ? std::to_string(run.node()) : run.nodes();
}

/// Bytes of a process by the nodes they are on: "0", or "0-3" for mixed memory.
std::map<std::pair<int, std::string>, uint64_t> bytes_of(const image::Placement& placement) {
  std::map<std::pair<int, std::string>, uint64_t> bytes;
  for (const image::ProcessPlacement& process : placement.processes()) {
    for (const image::RangePlacement& range : process.ranges()) {
      for (const image::PageRun& run : range.runs()) {
        bytes[{process.vpid(), nodes_text(run)}] += numa::bytes_of(run);
      }
    }
  }
  return bytes;
}

std::string on_nodes(const std::map<std::pair<int, std::string>, uint64_t>& bytes, int process) {
  std::string text;
  for (const auto& [key, amount] : bytes) {
    if (key.first != process) continue;
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", key.second, format_size(amount));
  }
  return text.empty() ? "-" : text;
}

void print_line(const std::string& line) { std::puts(storage::printable(line).c_str()); }

void print_plan(const image::Placement& saved, const numa::Plan& plan) {
  print_line(fmt::format("topology: {}", plan.how.empty() ? "not planned for" : plan.how));
  if (!plan.how.empty()) {
    print_line(fmt::format("local to its threads: {} of the memory before, {} after",
                           percent_text(plan.before.percent()),
                           percent_text(plan.after.percent())));
    std::puts("");
    print_line(
        fmt::format("{:>8} {:>8}  {:<24} {}", "PROCESS", "THREADS", "ON CPUS BEFORE", "NOW"));
    for (const auto& [way, threads] : ways_of(saved, plan.planned)) {
      print_line(fmt::format("{:>8} {:>8}  {:<24} {}", std::get<0>(way), threads, std::get<1>(way),
                             std::get<2>(way)));
    }
    std::puts("");
    print_line(fmt::format("{:>8}  {:<40} {}", "PROCESS", "MEMORY ON NODES BEFORE", "NOW"));
    const auto before = bytes_of(saved);
    const auto after = bytes_of(plan.planned);
    for (const image::ProcessPlacement& process : saved.processes()) {
      print_line(fmt::format("{:>8}  {:<40} {}", process.vpid(), on_nodes(before, process.vpid()),
                             on_nodes(after, process.vpid())));
    }
  }
  for (const std::string& note : plan.notes) say(note);
}

json to_json(const image::Placement& saved, const numa::Plan& plan) {
  json out = {{"topology", plan.how},
              {"local_percent_before", plan.before.percent()},
              {"local_percent_after", plan.after.percent()},
              {"bytes", plan.before.bytes},
              {"bytes_not_allowed", plan.bytes_not_allowed},
              {"notes", plan.notes},
              {"threads", json::array()},
              {"memory", json::array()}};
  for (int i = 0; i < std::min(saved.threads_size(), plan.planned.threads_size()); ++i) {
    const image::ThreadPlacement& thread = saved.threads(i);
    out["threads"].push_back({{"process", thread.vpid()},
                              {"thread", thread.vtid()},
                              {"cpus_before", thread.cpuset()},
                              {"cpus", plan.planned.threads(i).cpuset()}});
  }
  const auto add_memory = [&](const image::Placement& placement, const char* when) {
    for (const auto& [key, bytes] : bytes_of(placement)) {
      out["memory"].push_back(
          {{"process", key.first}, {"when", when}, {"nodes", key.second}, {"bytes", bytes}});
    }
  };
  add_memory(saved, "before");
  add_memory(plan.planned, "planned");
  return out;
}

Status write_svg(const std::string& path, const image::Placement& planned, Crid crid) {
  FERMATA_ASSIGN_STATUS(const std::string svg,
                        numa::picture_svg(planned, fmt::format("Fermata: checkpoint {} as planned",
                                                               to_string(crid))));
  // A setuid program writes where its caller may.
  FERMATA_ASSIGN_STATUS(const Credentials caller, credentials_of_caller());
  FERMATA_ASSIGN_STATUS(const FsCredentialScope scope, FsCredentialScope::enter(caller));
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << svg;
  out.close();
  if (!out) return {Code::kStorage, fmt::format("{}: cannot be written", path)};
  return {};
}

/// This machine under the caller's limits, or the one described, all of it.
Result<std::pair<numa::Topology, numa::Allowed>> target(const Options& options) {
  if (options.on.empty()) {
    FERMATA_ASSIGN(numa::Topology here, numa::current_topology());
    FERMATA_ASSIGN(numa::Allowed allowed, numa::allowed_here());
    return std::pair(std::move(here), std::move(allowed));
  }
  if (getauxval(AT_SECURE) != 0) {
    return failure(Code::kPermission,
                   "--on: not for a fermata that has more rights than its caller");
  }
  FERMATA_ASSIGN(numa::Topology there, numa::described_topology(options.on));
  return std::pair(std::move(there), numa::Allowed{});
}

Result<int> plan(const Invocation& invocation, const Options& options) {
  FERMATA_ASSIGN(const numa::Mode mode, numa::parse_mode(options.mode));
  const std::filesystem::path dir = invocation.checkpoint_dir(options.dir);
  FERMATA_ASSIGN(const auto there, target(options));
  FERMATA_ASSIGN(const Credentials owner, folder_owner(dir));
  const coord::Coordinator coordinator(dir, owner);
  FERMATA_ASSIGN(const coord::ChosenSet set, coordinator.choose(std::nullopt, Crid{options.crid}));
  json all = json::array();
  for (const storage::ManifestImage& file : set.manifest.images) {
    FERMATA_ASSIGN(const storage::PodImage image, [&]() -> Result<storage::PodImage> {
      FERMATA_ASSIGN(const FsCredentialScope scope, FsCredentialScope::enter(owner));
      return storage::read_image(set.folder / file.file, file.digest);
    }());
    FERMATA_ASSIGN(const numa::Plan plan,
                   numa::plan_placement(image.placement, there.first, there.second, mode));
    if (options.json) {
      json one = to_json(image.placement, plan);
      one["image"] = file.file;
      all.push_back(std::move(one));
    } else {
      if (set.manifest.images.size() > 1) print_line(fmt::format("{} on {}", file.file, file.host));
      print_plan(image.placement, plan);
    }
    if (plan.how.empty()) continue;
    if (!options.json) {
      FERMATA_ASSIGN(const std::string picture, numa::picture_text(plan.planned));
      std::printf("\n%s", picture.c_str());
    }
    if (!options.svg.empty()) {
      const bool one = set.manifest.images.size() == 1;
      FERMATA_TRY_RESULT(
          write_svg(one ? options.svg : fmt::format("{}.{}.svg", options.svg, file.file),
                    plan.planned, set.manifest.crid));
    }
  }
  if (options.json) print_json(all.size() == 1 ? all.front() : all);
  return 0;
}

}  // namespace

void add_numa_plan(CLI::App& numa, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = numa.add_subcommand(
      "plan", "Tell where a restart would put threads and memory; restarts nothing");
  sub->add_option("CRID", options->crid, "The checkpoint")->required()->check(CLI::PositiveNumber);
  sub->add_option("--on", options->on,
                  "Another machine: hwloc's XML (lstopo FILE.xml) or a description such as "
                  "\"package:2 [numa] core:4 pu:1\"")
      ->type_name("XML|SYNTHETIC");
  sub->add_option("--numa", options->mode, "As for restart: replan, keep or ignore")
      ->type_name("HOW")
      ->capture_default_str();
  sub->add_option("--svg", options->svg, "Draw the plan into this file")->type_name("FILE");
  sub->add_option("--checkpoint-dir", options->dir, "Where checkpoints lie")->type_name("DIR");
  sub->add_flag("--json", options->json, "For programs");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      if (options->json) tell_failures_as_json();
      const Result<int> status = plan(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
