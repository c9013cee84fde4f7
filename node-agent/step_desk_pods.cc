// The agent's side of the desk: what becomes of the tasks that were offered.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "node-agent/step_desk.h"

namespace fermata::node_agent {
namespace {

std::tuple<uint64_t, uint32_t, uint32_t> key_of(const PodId& pod) {
  return {pod.step.job, pod.step.step, pod.start};
}

}  // namespace

std::vector<int> StepPart::pod_streams() const {
  const TaskPart& first = tasks.front();
  std::vector<int> all{first.streams[0].get(), first.streams[2].get(), first.streams[2].get()};
  for (const TaskPart& task : tasks) {
    for (const UniqueFd& stream : task.streams) all.push_back(stream.get());
  }
  return all;
}

StepPart::~StepPart() {
  std::vector<UniqueFd> streams;
  for (TaskPart& task : tasks) {
    for (UniqueFd& stream : task.streams) streams.push_back(std::move(stream));
  }
  close_elsewhere(std::move(streams));
}

StepDesk::Step* StepDesk::step_of(const PodId& pod) {
  const auto found = steps_.find(key_of(pod));
  return found == steps_.end() ? nullptr : &found->second;
}

/// Tells the stub what became of its rank, as far as that may be told: the last rank of a pod ends
/// when the pod has, so that nothing is left when Slurm looks. True: it was told.
bool StepDesk::deliver(Task& task) const {
  if (!task.stub || !task.status || !task.over) return false;
  tell_stub(task.stub.get(), {{"kind", "ended"}, {"status", std::to_string(*task.status)}});
  return true;
}

/// Forgets a step of which nothing is left.
void StepDesk::settle(const StepKey& key) {
  const auto step = steps_.find(key);
  if (step == steps_.end()) return;
  std::erase_if(step->second.tasks,
                [](const auto& one) { return one.second.over && !one.second.awaited; });
  const bool others_come =
      !step->second.left.empty() && step->second.left.size() < step->second.facts.here;
  if (step->second.tasks.empty() && !others_come) steps_.erase(step);
}

void StepDesk::resend() {
  const Held held(*this);
  for (auto& [key, step] : steps_) {
    take_back(step);
    if (!step.offered) continue;
    step.again = true;
    offer_if_complete(step);
  }
}

void StepDesk::refuse(const PodId& offer, const std::string& text, int exit_status) {
  const Held held(*this);
  Step* step = step_of(offer);
  if (step == nullptr) return;
  bool first = true;
  for (auto& [rank, task] : step->tasks) {
    if (task.started || !task.stub) continue;
    // Once is enough.
    const bool says = std::exchange(first, false) && !text.empty();
    tell_stub(task.stub.get(), {{"kind", "refused"},
                                {"status", std::to_string(exit_status)},
                                {"text", says ? text : std::string()}});
  }
}

Result<StepPart> StepDesk::take(const PodId& pod, const std::vector<uint32_t>& ranks) {
  const Held held(*this);
  Step* step = step_of(pod);
  StepPart part;
  for (const uint32_t rank : ranks) {
    const auto found = step == nullptr ? decltype(step->tasks.end()){} : step->tasks.find(rank);
    if (step == nullptr || found == step->tasks.end() || !found->second.ready ||
        !found->second.stub) {
      return failure(Code::kGone, fmt::format("task {} of Slurm's step {} is not on this node any "
                                              "more",
                                              rank, to_string(pod.step)));
    }
    Task& task = found->second;
    FERMATA_ASSIGN(pod::ModelProcess model, pod::ModelProcess::of(task.process.pid));
    // Were it gone, its number could be another's by now.
    if (!stub_is_there(task.stub.get())) {
      return failure(Code::kGone, fmt::format("task {} of Slurm's step {} has just ended", rank,
                                              to_string(pod.step)));
    }
    TaskPart& one = part.tasks.emplace_back();
    one.rank = rank;
    one.stub = task.process;
    one.command = task.command;
    one.processors = model.processors();
    for (size_t stream = 0; stream < task.streams.size(); ++stream) {
      one.streams.at(stream).reset(fcntl(task.streams.at(stream).get(), F_DUPFD_CLOEXEC, 0));
      if (!one.streams.at(stream)) return errno_failure(errno, "a stream of a task");
    }
    task.pod = pod.pod;
    if (part.tasks.size() == 1) {
      part.model = std::move(model);
    } else {
      part.model.run_also_on(one.processors);
    }
  }
  if (part.tasks.empty()) return failure(Code::kInternal, "a pod without a task");
  part.uid = step->facts.uid;
  part.gid = step->facts.gid;
  part.groups = step->facts.groups;
  return part;
}

void StepDesk::expect(const PodId& pod, const std::vector<uint32_t>& ranks, uid_t owner,
                      const std::vector<StubProcess>& stubs) {
  const Held held(*this);
  Step& step = steps_[key_of(pod)];
  step.facts.uid = owner;
  for (const uint32_t rank : ranks) {
    Task& task = step.tasks[rank];
    task.awaited = task.started = task.ready = true;
    task.pod = pod.pod;
    for (const StubProcess& stub : stubs) {
      if (stub.rank == rank) task.process = stub;
    }
  }
}

void StepDesk::started(const PodId& pod) {
  const Held held(*this);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  for (auto& [rank, task] : step->tasks) {
    if (task.pod != pod.pod || task.started) continue;
    task.started = true;
    task.command = {};
    drop_streams(task);
    if (task.stub) tell_stub(task.stub.get(), {{"kind", "started"}});
    for (const int signal : std::exchange(task.signals, {})) {
      to_signal_.push_back({pod, rank, signal});
    }
    if (!task.stub) to_signal_.push_back({pod, rank, SIGKILL});
  }
}

void StepDesk::rank_ended(const PodId& pod, uint32_t rank, int wait_status) {
  const Held held(*this);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  const auto found = step->tasks.find(rank);
  if (found == step->tasks.end() || found->second.pod != pod.pod) return;
  found->second.status = wait_status;
  bool last = true;
  for (const auto& [number, task] : step->tasks) {
    if (task.pod == pod.pod && !task.status) last = false;
  }
  if (last) return;  // with the pod
  found->second.over = true;
  if (deliver(found->second)) settle(key_of(pod));
}

void StepDesk::pod_over(const PodId& pod, std::optional<int> wait_status) {
  const Held held(*this);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  for (auto it = step->tasks.begin(); it != step->tasks.end();) {
    Task& task = it->second;
    if (task.pod == pod.pod && !task.started) {
      task.pod.reset();  // the pod did not come to be; the coordinator says why
      if (!task.stub) {
        drop_streams(task);
        it = step->tasks.erase(it);
        continue;
      }
    } else if (task.pod == pod.pod) {
      if (!task.status) task.status = wait_status.value_or(W_EXITCODE(0, SIGKILL));
      task.over = true;
      deliver(task);
    }
    ++it;
  }
  // A coordinator that came meanwhile was told of it as of one that runs.
  if (std::exchange(step->again, false)) offer_if_complete(*step);
  settle(key_of(pod));
}

}  // namespace fermata::node_agent
