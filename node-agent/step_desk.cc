#include "node-agent/step_desk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/file_util.h"
#include "common/log.h"
#include "node-agent/record_file.h"

namespace fermata::node_agent {
namespace {

// A command line and an environment of a task; execve(2) takes less.
constexpr off_t kLongestCommand = 64 << 20;
constexpr const char* kFolder = "fermata-checkpoints";
// Of the lies that anybody can tell, one in a while is enough for the log.
constexpr std::chrono::seconds kBetweenWarnings{10};
constexpr size_t kMostEarlySignals = 64;

PodId id_of(const std::tuple<uint64_t, uint32_t, uint32_t>& key, uint32_t pod) {
  return {{std::get<0>(key), std::get<1>(key)}, pod, std::get<2>(key)};
}

std::tuple<uint64_t, uint32_t, uint32_t> key_of(const PodId& pod) {
  return {pod.step.job, pod.step.step, pod.start};
}

std::optional<TaskCommand> read_command(int memfd) {
  struct stat status {};
  if (fstat(memfd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size > kLongestCommand) {
    return std::nullopt;
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got =
        pread(memfd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got <= 0) return std::nullopt;
    done += static_cast<size_t>(got);
  }
  const std::optional<StubFields> fields = decode_stub_fields(text);
  if (!fields) return std::nullopt;
  TaskCommand command = task_command_of(*fields);
  if (command.command.empty() || !command.working_directory.starts_with('/')) return std::nullopt;
  return command;
}

std::string absolute(const std::string& path, const std::string& below) {
  return path.starts_with('/') ? path : (std::filesystem::path(below) / path).string();
}

}  // namespace

StepPart::~StepPart() {
  std::vector<UniqueFd> streams;
  for (TaskPart& task : tasks) {
    for (UniqueFd& stream : task.streams) streams.push_back(std::move(stream));
  }
  close_elsewhere(std::move(streams));
}

class StepDesk::Held {
 public:
  explicit Held(StepDesk& desk) : desk_(desk), lock_(desk.mutex_) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    const auto offers = std::exchange(desk_.to_offer_, {});
    const auto signals = std::exchange(desk_.to_signal_, {});
    const auto abandoned = std::exchange(desk_.to_abandon_, {});
    close_elsewhere(std::exchange(desk_.to_close_, {}));
    lock_.unlock();
    for (const wire::StepOffer& offer : offers) desk_.events_.offer(offer);
    for (const Signal& one : signals) desk_.events_.signal(one.pod, one.rank, one.number);
    for (const PodId& pod : abandoned) desk_.events_.abandoned(pod);
  }

 private:
  StepDesk& desk_;
  std::unique_lock<std::mutex> lock_;
};

Result<std::unique_ptr<StepDesk>> StepDesk::open(const std::filesystem::path& socket,
                                                 std::filesystem::path folder,
                                                 StepDeskEvents events) {
  FERMATA_ASSIGN(std::unique_ptr<StepDoor> door, StepDoor::open(socket));
  return std::unique_ptr<StepDesk>(
      new StepDesk(std::move(door), std::move(folder), std::move(events)));
}

StepDesk::StepDesk(std::unique_ptr<StepDoor> door, std::filesystem::path folder,
                   StepDeskEvents events)
    : folder_(std::move(folder)), events_(std::move(events)), door_(std::move(door)) {}

void StepDesk::begin() {
  StepDoor::Events events;
  events.said = [this](StepDoor::Said said) { return hear(std::move(said)); };
  events.left = [this](int guest) { lose(guest); };
  events.time_passed = [this] { return look_for_awaited(); };
  door_->begin(std::move(events));
}

// ---- what the door tells

bool StepDesk::hear(StepDoor::Said said) {
  const Held held(*this);
  const std::string_view kind = stub_field(said.fields, "kind");
  const auto found = guests_.find(said.guest);
  if (found == guests_.end()) {
    if (kind != "task" && kind != "attach") return false;
    const std::optional<std::string> wrong = wrong_stub_version(said.fields);
    if (wrong && (kind == "attach" || said.uid == 0)) {
      tell_stub(said.guest, {{"kind", "refused"}, {"status", "1"}, {"text", *wrong}});
      return false;
    }
    return kind == "task" ? introduce(said) : attach(said);
  }
  const Place place = found->second;
  if (kind == "ready") make_ready(place, std::move(said.with));
  if (kind == "signal") pass_on(place, static_cast<int>(stub_number(said.fields, "number")));
  return true;
}

void StepDesk::lose(int guest) {
  const Held held(*this);
  const auto found = guests_.find(guest);
  if (found == guests_.end()) return;
  const auto [key, rank] = found->second;
  guests_.erase(found);
  stub_gone(key, rank);
}

/// Those that died while no agent was there will not come. True: some are still awaited.
bool StepDesk::look_for_awaited() {
  const Held held(*this);
  std::vector<Place> gone;
  bool more = false;
  for (const auto& [key, step] : steps_) {
    for (const auto& [rank, task] : step.tasks) {
      if (!task.awaited) continue;
      if (task.process.lives()) {
        more = true;
      } else {
        gone.emplace_back(key, rank);
      }
    }
  }
  for (const auto& [key, rank] : gone) {
    steps_.at(key).tasks.at(rank).awaited = false;
    stub_gone(key, rank);
  }
  return more;
}

/// Slurm has killed the stub of a task, or it has ended as its rank did.
void StepDesk::stub_gone(const StepKey& key, uint32_t rank) {
  Task* task = task_of({key, rank});
  if (task == nullptr) return;
  task->stub.reset();
  if (task->pod && !task->status && !task->over) {
    const PodId pod = id_of(key, *task->pod);
    const auto& tasks = steps_.at(key).tasks;
    const bool last = std::none_of(tasks.begin(), tasks.end(), [&](const auto& one) {
      const Task& other = one.second;
      return other.pod == task->pod && (other.stub.valid() || other.awaited) && !other.over;
    });
    if (last) {
      to_abandon_.push_back(pod);
    } else if (task->started) {
      to_signal_.push_back({pod, rank, SIGKILL});
    }
  }
  if (!task->pod) {
    drop_streams(*task);
    Step& step = steps_.at(key);
    step.tasks.erase(rank);
    if (!step.offered) step.left.insert(rank);
    let_go(step);
  }
  settle(key);
}

/// Where a task has left before its step was complete here, as one with a terminal does, and one
/// whose program is not there, the others would wait for it for ever.
void StepDesk::let_go(const Step& step) {
  if (step.left.empty()) return;
  wire::StepOffer offer;
  offer.mutable_id()->set_job(step.facts.job);
  offer.mutable_id()->set_step(step.facts.step);
  offer.mutable_id()->set_start(step.facts.start);
  offer.mutable_id()->set_pod(step.facts.node);
  offer.set_nodes(step.facts.nodes);
  offer.set_withdrawn(true);
  if (step.facts.nodes > 1) to_offer_.push_back(std::move(offer));
  if (step.tasks.empty()) return;
  log_warning(fmt::format("Slurm's step {}.{}: task {} has ended before all were there",
                          step.facts.job, step.facts.step, *step.left.begin()));
  for (const auto& [rank, task] : step.tasks) {
    if (!task.stub) continue;
    tell_stub(task.stub.get(), {{"kind", "refused"}, {"status", "1"}, {"text", ""}});
  }
}

// ---- what stubs say

StepDesk::Task* StepDesk::task_of(const Place& place) {
  const auto step = steps_.find(place.first);
  if (step == steps_.end()) return nullptr;
  const auto task = step->second.tasks.find(place.second);
  return task == step->second.tasks.end() ? nullptr : &task->second;
}

bool StepDesk::introduce(const StepDoor::Said& said) {
  const std::optional<StepTask> facts = step_task_of(said.fields);
  if (said.uid != 0 || !facts) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= next_warning_) {
      log_warning(
          fmt::format("process {} of user {} says it is a task of a Slurm step: not "
                      "believed",
                      said.pid, said.uid));
      next_warning_ = now + kBetweenWarnings;
    }
    return false;
  }
  const StepKey key{facts->job, facts->step, facts->start};
  Step& step = steps_[key];
  step.facts = *facts;
  Task& task = step.tasks[facts->rank];
  drop_streams(task);
  task = Task{};
  task.stub.reset(fcntl(said.guest, F_DUPFD_CLOEXEC, 0));
  task.process = {facts->rank, said.pid, process_start_time(said.pid)};
  guests_[said.guest] = {key, facts->rank};
  let_go(step);
  return true;
}

bool StepDesk::attach(const StepDoor::Said& said) {
  const StubFields& fields = said.fields;
  const Place place{{stub_number(fields, "job"), static_cast<uint32_t>(stub_number(fields, "step")),
                     static_cast<uint32_t>(stub_number(fields, "start"))},
                    static_cast<uint32_t>(stub_number(fields, "rank"))};
  Task* task = task_of(place);
  if (task == nullptr || !task->awaited ||
      (said.uid != 0 && said.uid != steps_.at(place.first).facts.uid)) {
    tell_stub(said.guest, {{"kind", "ended"}, {"status", std::to_string(W_EXITCODE(1, 0))}});
    return false;
  }
  task->awaited = false;
  task->stub.reset(fcntl(said.guest, F_DUPFD_CLOEXEC, 0));
  task->process = {place.second, said.pid, process_start_time(said.pid)};
  guests_[said.guest] = place;
  if (deliver(*task)) settle(place.first);
  return true;
}

void StepDesk::make_ready(const Place& place, std::vector<UniqueFd> with) {
  Task* task = task_of(place);
  if (task == nullptr || task->ready || with.size() != 4) {
    std::move(with.begin(), with.end(), std::back_inserter(to_close_));
    return;
  }
  std::optional<TaskCommand> command = read_command(with[0].get());
  for (size_t stream = 0; stream < task->streams.size(); ++stream) {
    task->streams.at(stream) = std::move(with[stream + 1]);
  }
  if (!command) {
    drop_streams(*task);
    tell_stub(task->stub.get(),
              {{"kind", "refused"}, {"status", "1"}, {"text", "the task has no command"}});
    return;
  }
  task->command = *std::move(command);
  task->ready = true;
  offer_if_complete(steps_.at(place.first));
}

void StepDesk::pass_on(const Place& place, int signal) {
  Task* task = task_of(place);
  if (task == nullptr || signal <= 0 || signal > SIGRTMAX) return;
  if (task->started && task->pod) {
    to_signal_.push_back({id_of(place.first, *task->pod), place.second, signal});
  } else if (task->signals.size() < kMostEarlySignals) {
    task->signals.push_back(signal);
  }
}

/// What is held here would keep their ends from being seen.
void StepDesk::drop_streams(Task& task) {
  for (UniqueFd& stream : task.streams) {
    if (stream) to_close_.push_back(std::move(stream));
  }
}

void StepDesk::offer_if_complete(Step& step) {
  if (step.tasks.size() != step.facts.here) return;
  for (const auto& [rank, task] : step.tasks) {
    if (!task.ready || task.pod) return;
  }
  const StepTask& facts = step.facts;
  const TaskCommand& first = step.tasks.begin()->second.command;
  wire::StepOffer offer;
  offer.mutable_id()->set_job(facts.job);
  offer.mutable_id()->set_step(facts.step);
  offer.mutable_id()->set_start(facts.start);
  offer.mutable_id()->set_pod(facts.node);
  offer.set_owner_uid(facts.uid);
  offer.set_owner_gid(facts.gid);
  for (const gid_t group : facts.groups) offer.add_owner_groups(group);
  offer.set_nodes(facts.nodes);
  offer.set_ranks(facts.ranks);
  for (const auto& [rank, task] : step.tasks) offer.add_ranks_here(rank);
  offer.set_interval_ms(facts.interval_ms);
  const std::string dir = !facts.dir.empty() ? facts.dir
                          : folder_.empty()  ? std::string(kFolder)
                                             : folder_.native();
  offer.set_checkpoint_dir(absolute(dir, first.working_directory));
  offer.set_restart_dir(
      absolute(facts.restart_dir.empty() ? dir : facts.restart_dir, first.working_directory));
  offer.set_restart(facts.restart);
  offer.set_skip_done(facts.skip_done);
  offer.set_before_end_ms(facts.before_end_ms);
  offer.set_before_end_default(facts.before_end_default);
  offer.set_compress(facts.compress);
  for (const std::string& word : first.command) offer.add_command(word);
  step.offered = true;
  to_offer_.push_back(std::move(offer));
}

// ---- what the agent says

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
