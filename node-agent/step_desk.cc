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

wire::StepOffer offer_of(const StepTask& facts) {
  wire::StepOffer offer;
  offer.mutable_id()->set_job(facts.job);
  offer.mutable_id()->set_step(facts.step);
  offer.mutable_id()->set_start(facts.start);
  offer.mutable_id()->set_pod(facts.node);
  offer.set_nodes(facts.nodes);
  return offer;
}

std::string absolute(const std::string& path, const std::string& below) {
  return path.starts_with('/') ? path : (std::filesystem::path(below) / path).string();
}

}  // namespace

StepDesk::Held::~Held() {
  const auto offers = std::exchange(desk_.to_offer_, {});
  const auto signals = std::exchange(desk_.to_signal_, {});
  const auto abandoned = std::exchange(desk_.to_abandon_, {});
  close_elsewhere(std::exchange(desk_.to_close_, {}));
  lock_.unlock();
  for (const wire::StepOffer& offer : offers) desk_.events_.offer(offer);
  for (const Signal& one : signals) desk_.events_.signal(one.pod, one.rank, one.number);
  for (const PodId& pod : abandoned) desk_.events_.abandoned(pod);
}

Result<std::unique_ptr<StepDesk>> StepDesk::open(const std::filesystem::path& socket,
                                                 std::filesystem::path folder,
                                                 StepDeskEvents events,
                                                 std::chrono::milliseconds left_kept) {
  FERMATA_ASSIGN(std::unique_ptr<StepDoor> door, StepDoor::open(socket));
  return std::unique_ptr<StepDesk>(
      new StepDesk(std::move(door), std::move(folder), std::move(events), left_kept));
}

StepDesk::StepDesk(std::unique_ptr<StepDoor> door, std::filesystem::path folder,
                   StepDeskEvents events, std::chrono::milliseconds left_kept)
    : folder_(std::move(folder)),
      events_(std::move(events)),
      left_kept_(left_kept),
      door_(std::move(door)) {}

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
    // Of whatever version: its rank runs, and what is said from here on is the same in all.
    if (kind == "attach") return attach(said);
    const std::optional<std::string> wrong = wrong_stub_version(said.fields);
    if (wrong && said.uid == 0) {
      tell_stub(said.guest, {{"kind", "refused"}, {"status", "1"}, {"text", *wrong}});
      return false;
    }
    return introduce(said);
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
    if (!step.offered) {
      step.left.insert(rank);
      step.left_at = std::chrono::steady_clock::now();
    }
    let_go(step);
  }
  settle(key);
}

/// Where a task has left before its step was complete here, as one with a terminal does, and one
/// whose program is not there, the others would wait for it for ever.
void StepDesk::let_go(const Step& step) {
  take_back(step);
  if (step.left.empty() || step.tasks.empty()) return;
  log_warning(fmt::format("Slurm's step {}.{}: task {} has ended before all were there",
                          step.facts.job, step.facts.step, *step.left.begin()));
  for (const auto& [rank, task] : step.tasks) {
    if (!task.stub) continue;
    tell_stub(task.stub.get(), {{"kind", "refused"}, {"status", "1"}, {"text", ""}});
  }
}

/// The step's other nodes are not to wait for this one.
void StepDesk::take_back(const Step& step) {
  if (step.left.empty() || step.facts.nodes <= 1) return;
  wire::StepOffer offer = offer_of(step.facts);
  offer.set_withdrawn(true);
  to_offer_.push_back(std::move(offer));
}

void StepDesk::forget_old() {
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(steps_, [&](const auto& one) {
    const Step& step = one.second;
    return step.tasks.empty() && !step.left.empty() && now - step.left_at >= left_kept_;
  });
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
  forget_old();
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
  wire::StepOffer offer = offer_of(facts);
  offer.set_owner_uid(facts.uid);
  offer.set_owner_gid(facts.gid);
  for (const gid_t group : facts.groups) offer.add_owner_groups(group);
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

}  // namespace fermata::node_agent
