// The one FrozenPod: who is held, and the capture made of them. Tracer's thread only, but for the
// memory sources.
#pragma once

#include "node-agent/engine/capture.h"
#include "node-agent/engine/held.h"
#include "node-agent/engine/outside.h"

namespace fermata::engine {

class HeldPod : public FrozenPod {
 public:
  HeldPod(std::filesystem::path group, pid_t init) : group_(std::move(group)), init_(init) {}
  ~HeldPod() override { release_all(); }

  void find_pages_by(PageFinder& finder) override { finder_ = &finder; }
  void expect_twins() override { twins_expected_ = true; }
  Status find_pages_here() override;
  Result<image::PodObjects> capture() override;
  const std::vector<MemoryRegion>& memory() const override { return memory_; }
  Result<TwinMemory> twins(const image::PodObjects& objects) override;
  const std::vector<FrozenProcess>& processes() const override { return listed_; }
  Result<Remote*> remote(int vpid, int vtid) override;
  const std::vector<image::OutsideConnection>& outside_connections() const override {
    return outside_.connections;
  }
  void allow_outside_connections() override { outside_.allowed = true; }
  void expect_rank_streams(int count) override { rank_streams_ = count; }
  std::vector<UniqueFd> take_outside_sockets() override {
    return std::exchange(outside_.sockets, {});
  }
  Status resume() override;
  Status kill() override;

  /// Attaches to all processes of the frozen group and to the zombies below `init`.
  Status hold_all(const std::vector<pid_t>& pids, int deadline_ms);
  /// Why the pod must be let go and stopped again in a moment: a vfork in progress, a thread in the
  /// code of a dead agent. Empty: it can be captured.
  std::string transient_state() const;
  void release_all();
  /// The group was frozen before (a suspended job): it is again as soon as its threads are let go.
  void freeze_again_at_release(std::filesystem::path group) { suspended_group_ = std::move(group); }

 private:
  Status add_zombies();
  void list_processes();
  std::vector<pid_t>& dead_with(pid_t pid) { return pid == init_ ? dead_of_init_ : dead_; }

  std::filesystem::path group_;
  pid_t init_;
  std::filesystem::path suspended_group_;
  std::vector<HeldProcess> held_;
  std::vector<FrozenProcess> listed_;
  std::vector<MemoryRegion> memory_;
  OutsideConnections outside_;
  EveryPage every_page_;
  PageFinder* finder_ = &every_page_;
  int rank_streams_ = 0;
  bool twins_expected_ = false;
  std::vector<UnfoundPages> unfound_;
  std::vector<pid_t> dead_;          ///< tracees killed by others, still to be waited for
  std::vector<pid_t> dead_of_init_;  ///< the same of PID 1
};

}  // namespace fermata::engine
