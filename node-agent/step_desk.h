// Where Slurm's steps meet the agent: each task of a step that wants to be held is a stub
// (spank-plugin/stub.h) connected to a UNIX socket of the agent. The desk offers a step to the
// coordinator when all its tasks of this node are there, gives their commands and streams to the
// pods that are made of them, hands signals on, and tells each stub how its rank ended.
//
// Who a task is the desk believes root alone (SO_PEERCRED at connect: slurmstepd before it drops
// its rights); what a task is to execute is its user's say. All functions: any thread. Events come
// from the desk's thread, without a lock held.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "common/stub_message.h"
#include "common/unique_fd.h"
#include "node-agent/pod/model_process.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

/// A task that becomes a rank of a pod.
struct TaskPart {
  uint32_t rank = 0;
  TaskCommand command;
  std::vector<uint32_t> processors;
  std::array<UniqueFd, 3> streams;
};

/// The tasks of one pod.
struct StepPart {
  std::vector<TaskPart> tasks;  ///< by rank, ascending
  pod::ModelProcess model;      ///< the first task's stub
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
                                                std::filesystem::path folder,
                                                StepDeskEvents events);
  StepDesk(const StepDesk&) = delete;
  StepDesk& operator=(const StepDesk&) = delete;
  ~StepDesk();

  /// A new stream to the coordinator: what waits is offered again.
  void resend();
  /// The coordinator will not have the step; `offer` is the offer's id.
  void refuse(const PodId& offer, const std::string& text, int exit_status);

  /// The tasks with these ranks are this pod's from now on. kGone: one is not there.
  Result<StepPart> take(const PodId& pod, const std::vector<uint32_t>& ranks);
  /// A pod that an agent before this one has started: its stubs will come.
  void expect(const PodId& pod, const std::vector<uint32_t>& ranks, uid_t owner);
  void started(const PodId& pod);
  void rank_ended(const PodId& pod, uint32_t rank, int wait_status);
  /// nullopt: how is not known; it was killed then.
  void pod_over(const PodId& pod, std::optional<int> wait_status);

 private:
  using StepKey = std::tuple<uint64_t, uint32_t, uint32_t>;  // job, step, start
  struct Task {
    UniqueFd stub;  ///< none: it is gone, or (awaited) has not come yet
    pid_t pid = 0;
    TaskCommand command;
    std::array<UniqueFd, 3> streams;
    bool ready = false;
    bool awaited = false;
    std::optional<uint32_t> pod;
    bool started = false;
    bool over = false;  ///< its pod is
    std::optional<int> status;
  };
  struct Step {
    StepTask facts;
    std::map<uint32_t, Task> tasks;  ///< by rank
    bool offered = false;
  };
  /// A connection, and whose it is once it has said so.
  struct Guest {
    UniqueFd fd;
    pid_t pid = 0;
    uid_t uid = 0;
    std::optional<std::pair<StepKey, uint32_t>> task;
  };

  StepDesk(UniqueFd listener, std::filesystem::path socket, std::filesystem::path folder,
           StepDeskEvents events);
  void work();
  void welcome();
  void hear(int fd);
  void lose(int fd);
  // With mutex_ held:
  void introduce(Guest& guest, const StubFields& said);
  void attach(Guest& guest, const StubFields& said);
  void make_ready(const Guest& guest, std::vector<UniqueFd> with);
  void offer_if_complete(Step& step);
  bool deliver(Task& task) const;
  void settle(const StepKey& key);
  Task* task_of(const Guest& guest);
  Step* step_of(const PodId& pod);

  const UniqueFd listener_;
  const std::filesystem::path socket_;
  const std::filesystem::path folder_;
  const StepDeskEvents events_;
  UniqueFd poll_;
  UniqueFd stop_;

  std::mutex mutex_;
  std::map<int, Guest> guests_;  ///< by descriptor
  std::map<StepKey, Step> steps_;
  std::vector<wire::StepOffer> to_offer_;  ///< as soon as the lock is given back

  std::thread thread_;  ///< the last member: it uses the others
};

}  // namespace fermata::node_agent
