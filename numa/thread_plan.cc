#include "numa/thread_plan.h"

#include <set>

namespace fermata::numa {
namespace {

std::map<int, Numbers> homes_of(const Machine& machine) {
  std::map<int, Numbers> homes;
  for (const int cpu : machine.cpus()) homes[machine.home_of(cpu)].push_back(cpu);
  homes.erase(-1);
  return homes;
}

}  // namespace

ThreadPlan::ThreadPlan(const Mapping& mapping, const Side& before, const Side& now, bool whole)
    : mapping_(mapping),
      whole_(whole && mapping.kind == Mapping::Kind::kRegrouped),
      before_(restricted(before.machine, {before.allowed.cpus, {}})),
      now_(restricted(now.machine, {now.allowed.cpus, {}})) {
  if (!whole_) return;
  homes_before_ = homes_of(before_);
  homes_now_ = homes_of(now_);
  for (size_t core = 0; core < now_.cores.size(); ++core) {
    for (const int cpu : now_.cores[core]) core_of_[cpu] = core;
  }
  for (const auto& [from, to] : mapping_.cpu) {
    if (core_of_.contains(to)) unite(moved_to_[core_of_.at(to)], {from});
  }
}

Numbers ThreadPlan::cpus_for(const Numbers& cpus) const {
  Numbers result;
  std::set<size_t> cores;
  for (const int cpu : cpus) {
    const auto image = mapping_.cpu.find(cpu);
    if (image == mapping_.cpu.end()) continue;
    unite(result, {image->second});
    if (whole_ && core_of_.contains(image->second)) cores.insert(core_of_.at(image->second));
  }
  if (!whole_) return result;
  for (const Numbers& core : before_.cores) {
    if (!includes(cpus, core)) continue;  // it had all of this core
    for (const size_t to : cores) {
      if (includes(core, moved_to_.at(to))) unite(result, now_.cores[to]);
    }
  }
  for (const auto& [node, home] : homes_before_) {
    if (!includes(cpus, home)) continue;  // it had all of this node
    for (const int cpu : home) {
      const auto image = mapping_.cpu.find(cpu);
      if (image == mapping_.cpu.end()) continue;
      const auto here = homes_now_.find(now_.home_of(image->second));
      if (here != homes_now_.end()) unite(result, here->second);
    }
  }
  return result;
}

}  // namespace fermata::numa
