// Where Slurm's steps meet the agent: each task of a step that wants to be held is a stub
// (spank-plugin/stub.h) connected to a UNIX socket of the agent. The desk offers a step to the
// coordinator when all its tasks of this node are there, gives their commands and streams to the
// pods that are made of them, hands signals on, and tells each stub how its rank ended.
//
// Who a task is the desk believes root alone (SO_PEERCRED at connect: slurmstepd before it drops
// its rights); what a task is to execute is its user's say. All functions: any thread. Events come
// from the desk's thread, or from who called, without a lock held.
#pragma once

#include <array>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "common/stub_message.h"
#include "common/unique_fd.h"
#include "node-agent/pod/model_process.h"
#include "node-agent/pod_registry.h"
#include "node-agent/step_door.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

/// Of a rank that a stub stands for; as many are the pod's.
inline constexpr int kStreamsOfRank = 3;

/// A task that becomes a rank of a pod.
struct TaskPart {
  uint32_t rank = 0;
  StubProcess stub;
  TaskCommand command;
  std::vector<uint32_t> processors;
  std::array<UniqueFd, kStreamsOfRank> streams;
};

/// The tasks of one pod. Its streams are closed elsewhere when it goes.
struct StepPart {
  StepPart() = default;
  StepPart(StepPart&&) = default;
  StepPart(const StepPart&) = delete;
  StepPart& operator=(const StepPart&) = delete;
  ~StepPart();

  /// podinit's own three, then those of each rank: what podinit has to say is said where rank 0 of
  /// the pod says it.
  std::vector<int> pod_streams() const;

  std::vector<TaskPart> tasks;  ///< by rank, ascending
  uid_t uid = 0;                ///< of the job, as are the groups
  gid_t gid = 0;
  std::vector<gid_t> groups;
  pod::ModelProcess model;  ///< the first task's stub, on the processors of all
};

struct StepDeskEvents {
  std::function<void(wire::StepOffer offer)> offer;
  /// Slurm has sent this to a task.
  std::function<void(const PodId& pod, uint32_t rank, int signo)> signal;
  /// No stub of this pod is left: Slurm has ended the step.
  std::function<void(const PodId& pod)> abandoned;
};

class StepDesk {
 public:
  /// Listens at `socket`. `folder`: of checkpoints, where a step names none; empty: below its
  /// working folder.
  static Result<std::unique_ptr<StepDesk>> open(const std::filesystem::path& socket,
                                                std::filesystem::path folder, StepDeskEvents events,
                                                std::chrono::milliseconds left_kept = kLeftKept);
  /// Hears the stubs from now on. Once, when expect() has been told of all that run.
  void begin();
  StepDesk(const StepDesk&) = delete;
  StepDesk& operator=(const StepDesk&) = delete;

  /// A new stream to the coordinator: what waits is offered again, and taken back again what will
  /// never be complete.
  void resend();
  /// The coordinator will not have the step; `offer` is the offer's id.
  void refuse(const PodId& offer, const std::string& text, int exit_status);

  /// The tasks with these ranks are this pod's from now on. kGone: one is not there.
  Result<StepPart> take(const PodId& pod, const std::vector<uint32_t>& ranks);
  /// A pod that an agent before this one has started: its stubs will come, as long as they live.
  void expect(const PodId& pod, const std::vector<uint32_t>& ranks, uid_t owner,
              const std::vector<StubProcess>& stubs);
  void started(const PodId& pod);
  void rank_ended(const PodId& pod, uint32_t rank, int wait_status);
  /// nullopt: how is not known; it was killed then.
  void pod_over(const PodId& pod, std::optional<int> wait_status);

 private:
  using StepKey = std::tuple<uint64_t, uint32_t, uint32_t>;  // job, step, start
  struct Task {
    UniqueFd stub;  ///< none: it is gone, or (awaited) has not come yet
    StubProcess process;
    TaskCommand command;
    std::array<UniqueFd, 3> streams;
    std::vector<int> signals;  ///< of before it was started
    bool ready = false;
    bool awaited = false;
    std::optional<uint32_t> pod;
    bool started = false;
    bool over = false;  ///< its pod is
    std::optional<int> status;
  };
  struct Step {
    StepTask facts;
    std::map<uint32_t, Task> tasks;                   ///< by rank
    std::set<uint32_t> left;                          ///< ranks that went before it was offered
    std::chrono::steady_clock::time_point left_at{};  ///< when the last of these went
    bool offered = false;
    bool again = false;  ///< to be offered when a start that is under way has failed
  };
  /// A connection that is a task's.
  using Place = std::pair<StepKey, uint32_t>;
  struct Signal {
    PodId pod;
    uint32_t rank;
    int number;
  };
  /// The table, locked; what came of it is done when the lock has been given back.
  class Held {
   public:
    explicit Held(StepDesk& desk) : desk_(desk), lock_(desk.mutex_) {}
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held();

   private:
    StepDesk& desk_;
    std::unique_lock<std::mutex> lock_;
  };

  /// A step of which tasks have left is remembered for so long: some of the others may never have
  /// come to be.
  static constexpr std::chrono::minutes kLeftKept{10};

  StepDesk(std::unique_ptr<StepDoor> door, std::filesystem::path folder, StepDeskEvents events,
           std::chrono::milliseconds left_kept);
  bool hear(StepDoor::Said said);
  void lose(int guest);
  bool look_for_awaited();
  // With mutex_ held:
  bool introduce(const StepDoor::Said& said);
  bool attach(const StepDoor::Said& said);
  void make_ready(const Place& place, std::vector<UniqueFd> with);
  void pass_on(const Place& place, int signal);
  void stub_gone(const StepKey& key, uint32_t rank);
  void let_go(const Step& step);
  void take_back(const Step& step);
  void forget_old();
  void offer_if_complete(Step& step);
  void drop_streams(Task& task);
  bool deliver(Task& task) const;
  void settle(const StepKey& key);
  Task* task_of(const Place& place);
  Step* step_of(const PodId& pod);

  const std::filesystem::path folder_;
  const StepDeskEvents events_;
  const std::chrono::milliseconds left_kept_;

  std::mutex mutex_;
  std::map<int, Place> guests_;  ///< by number of the connection
  std::map<StepKey, Step> steps_;
  // For when the lock is given back:
  std::vector<wire::StepOffer> to_offer_;
  std::vector<Signal> to_signal_;
  std::vector<PodId> to_abandon_;
  std::vector<UniqueFd> to_close_;
  std::chrono::steady_clock::time_point next_warning_;

  std::unique_ptr<StepDoor> door_;  ///< the last member: its thread uses the others
};

}  // namespace fermata::node_agent
