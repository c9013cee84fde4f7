#include "node-agent/snapshot_cost.h"

#include <algorithm>

namespace fermata::node_agent {
namespace {

// Measured on 2 cores of an AMD EPYC VM, Linux 6.18, 2026-11-21 (docs of engine/twin and
// copy_arena): a copy runs at 2.5 GB/s, a fork takes 33 ms a GiB of 4K pages and a process some
// 1.2 ms with all that belongs to it.
constexpr double kCopyBytesPerSecond = 2.5e9;
constexpr double kForkSecondsPerByte = 0.033 / (1 << 30);
constexpr double kForkSecondsPerProcess = 0.0012;

// Below that what is measured is threads that start, and clocks.
constexpr uint64_t kTells = 4 << 20;
// One checkpoint is one sample of a noisy machine.
constexpr double kWeight = 0.5;
constexpr double kLeast = 0.02;
constexpr double kMost = 8;
constexpr double kForgotten = 0.1;

double copy_by_figures(uint64_t bytes) { return static_cast<double>(bytes) / kCopyBytesPerSecond; }

double fork_by_figures(const MemoryUse& use) {
  return kForkSecondsPerProcess * static_cast<double>(use.processes) +
         kForkSecondsPerByte * static_cast<double>(use.own);
}

void learn(double& factor, double took, double by_figures) {
  factor += kWeight * (std::clamp(took / by_figures, kLeast, kMost) - factor);
}

}  // namespace

double SnapshotCost::of_copy(uint64_t bytes) const { return copy_factor_ * copy_by_figures(bytes); }

double SnapshotCost::of_twins(const MemoryUse& use) const {
  return twin_factor_ * fork_by_figures(use) + of_copy(use.shared);
}

void SnapshotCost::copied(uint64_t bytes, double seconds) {
  if (bytes >= kTells) learn(copy_factor_, seconds, copy_by_figures(bytes));
}

void SnapshotCost::forked(const MemoryUse& use, double seconds) {
  if (use.own >= kTells) learn(twin_factor_, seconds, fork_by_figures(use));
}

void SnapshotCost::age() {
  copy_factor_ += kForgotten * (1 - copy_factor_);
  twin_factor_ += kForgotten * (1 - twin_factor_);
}

}  // namespace fermata::node_agent
