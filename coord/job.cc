#include "coord/job.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>

#include "common/log.h"
#include "coord/launch.h"
#include "coord/wire.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

/// An agent that is back without a pod may have the news of its end right behind.
constexpr std::chrono::seconds kNewsOfTheEnd{5};

std::string how_it_ended(const stored::Pod& pod) {
  if (!pod.status_known()) return "ended, and how is not known";
  const int status = exit_status_of(pod);
  if (status <= 128) return fmt::format("ended with status {}", status);
  return fmt::format("was killed by signal {} ({})", status - 128, strsignal(status - 128));
}

}  // namespace

int exit_status_of(const stored::Pod& pod) {
  if (!pod.status_known()) return -1;
  const int status = pod.wait_status();
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

JobStep step_of(const stored::Job& record) { return {record.job(), record.step()}; }

PodId pod_of(const stored::Job& record, uint32_t pod) {
  return {step_of(record), pod, record.start()};
}

Job::Job(JobContext context, stored::Job record)
    : context_(std::move(context)),
      step_(step_of(record)),
      start_(record.start()),
      owner_uid_(record.owner_uid()),
      ends_early_(record.before_end_ms() != 0),
      record_(std::move(record)),
      state_(record_.start() == 0 ? State::kStarting : State::kRestarting),
      board_(step_, start_, {record_.pod_of_rank().begin(), record_.pod_of_rank().end()},
             static_cast<uint32_t>(record_.pods_size())),
      schedule_(std::chrono::milliseconds(record_.interval_ms())) {
  if (record_.has_ending()) {
    ending_ = Ending{record_.ending().why(), record_.ending().exit_status()};
  }
  killed_ = record_.killed();
  missing_.resize(static_cast<size_t>(record_.pods_size()));
  for (int i = 0; i < record_.pods_size(); ++i) {
    pods_on_[record_.pods(i).node()].push_back(static_cast<uint32_t>(i));
    node_of_.push_back(record_.pods(i).node());
    if (!record_.pods(i).ended()) {
      ++living_;
    } else {
      // Nobody has asked yet: there is nothing to tell.
      [[maybe_unused]] const auto nothing = board_.pod_ended(static_cast<uint32_t>(i));
    }
  }
}

// ---- what happens at the agents

bool Job::has_pod(const PodId& pod, const std::string& node) const {
  const std::lock_guard lock(mutex_);
  return pod.step == step_ && pod.start == start_ && state_ != State::kEnded &&
         pod.pod < missing_.size() && record_.pods(static_cast<int>(pod.pod)).node() == node;
}

void Job::pod_ended(const wire::PodEnded& ended) {
  const std::lock_guard lock(mutex_);
  const uint32_t number = ended.id().pod();
  if (ended.id().start() != start_ || number >= missing_.size()) return;
  stored::Pod& pod = *record_.mutable_pods(static_cast<int>(number));
  if (pod.ended()) return;
  pod.set_ended(true);
  pod.set_status_known(ended.status_known());
  pod.set_wait_status(ended.wait_status());
  missing_[number].reset();
  --living_;
  unsaved_ = true;
  judge_end(number, ended.reason());
  const std::lock_guard board(board_mutex_);
  tell(board_.pod_ended(number));
  changed_.notify_all();
}

void Job::judge_end(uint32_t number, const std::string& reason) {
  // Killed as asked: no accident.
  if (killing_ || killed_) return;
  const stored::Pod& pod = record_.pods(static_cast<int>(number));
  const int status = exit_status_of(pod);
  // A rank may return what it likes; but others of an MPI job would wait for one that failed. Of a
  // step of Slurm's, Slurm knows what is to become of the others (srun --kill-on-bad-exit).
  const bool failed = status >= 128 || (status != 0 && exchanged_ && living_ > 0);
  if (reason.empty() && status >= 0 && (record_.slurm() || !failed)) return;
  std::string why = fmt::format("pod {} on {} {}", number, pod.node(), how_it_ended(pod));
  if (!reason.empty()) why += ": " + reason;
  end_because(std::move(why), status > 0 ? status : 1);
}

void Job::end_because(std::string why, int exit_status) {
  if (ending_ || state_ == State::kEnded) return;
  ending_ = Ending{std::move(why), std::max(exit_status, highest_status())};
  record_.mutable_ending()->set_why(ending_->why);
  record_.mutable_ending()->set_exit_status(ending_->exit_status);
  unsaved_ = true;
  give_up_.request_stop();
  changed_.notify_all();
}

void Job::node_lost(const std::string& node) {
  const std::lock_guard lock(mutex_);
  const auto found = pods_on_.find(node);
  if (found == pods_on_.end()) return;
  // Its agent, which lives, has passed on what it held.
  terms_.doubt = std::chrono::system_clock::now();
  const Time until = std::chrono::steady_clock::now() + context_.options.node_grace;
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(context_.options.node_grace).count();
  for (const uint32_t pod : found->second) {
    if (record_.pods(static_cast<int>(pod)).ended()) continue;
    missing_[pod] = Missing{until, fmt::format("node {} is lost for {} s", node, seconds)};
  }
  missing_changed_ = true;
  changed_.notify_all();
}

void Job::node_back(const std::string& node, std::span<const PodId> running) {
  const std::lock_guard lock(mutex_);
  const auto found = pods_on_.find(node);
  if (found == pods_on_.end()) return;
  terms_.doubt = std::chrono::system_clock::now();
  for (const uint32_t pod : found->second) {
    if (record_.pods(static_cast<int>(pod)).ended()) continue;
    const bool here =
        std::find(running.begin(), running.end(), pod_of(record_, pod)) != running.end();
    missing_[pod].reset();
    // Those that were to be destroyed were counted without it.
    if (here && state_ >= State::kEnding) {
      destroy_untended(context_.fleet, node, pod_of(record_, pod));
    }
    // One that is being made is reported by the answer to its order.
    if (here || record_.state() == stored::Job::STARTING) continue;
    missing_[pod] = Missing{std::chrono::steady_clock::now() + kNewsOfTheEnd,
                            fmt::format("node {} is back without it", node)};
  }
  const std::lock_guard board(board_mutex_);
  tell_route(node, std::none_of(missing_.begin(), missing_.end(),
                                [](const auto& missing) { return missing.has_value(); }));
  for (const uint32_t pod : found->second) tell(board_.attached(pod));
  missing_changed_ = true;
  changed_.notify_all();
}

void Job::superseded(uint32_t start) {
  const std::lock_guard lock(mutex_);
  end_because(fmt::format("Slurm has begun it again (start {})", start), 128 + SIGKILL);
}

void Job::await_nodes() {
  for (const auto& [node, pods] : pods_on_) node_lost(node);
}

void Job::found_set(Crid crid, bool killed) {
  const std::lock_guard lock(mutex_);
  if (crid.value <= record_.last_crid()) return;
  record_.set_last_crid(crid.value);
  unsaved_ = true;
  if (!killed) return;
  killed_ = true;
  record_.set_killed(true);
  end_because("", 0);
}

void Job::look_for_lost_pods() {
  const Time now = std::chrono::steady_clock::now();
  for (size_t i = 0; i < missing_.size() && !ending_; ++i) {
    if (!missing_[i] || missing_[i]->until > now) continue;
    end_because(fmt::format("pod {} is lost: {}", i, missing_[i]->why), 128 + SIGKILL);
  }
}

// ---- what is asked

void Job::ask(Task task, Turn turn) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kEnded) {
      tasks_.insert(turn == Turn::kNext ? tasks_.begin() : tasks_.end(), std::move(task));
      changed_.notify_all();
      return;
    }
  }
  task({Code::kGone, fmt::format("job {} has ended", to_string(step_))});
}

void Job::wait(Requests::Respond<wire::WaitReply> respond) {
  wire::WaitReply reply;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kEnded) {
      waiting_.push_back(std::move(respond));
      return;
    }
    reply = wait_reply();
  }
  respond(std::move(reply));
}

wire::JobInfo Job::info() const {
  const std::lock_guard lock(mutex_);
  wire::JobInfo info;
  info.set_job(step_.job);
  info.set_step(step_.step);
  info.set_start(start_);
  info.set_user(record_.owner());
  for (const stored::Pod& pod : record_.pods()) info.add_nodes(pod.node());
  info.set_ranks(static_cast<uint32_t>(record_.pod_of_rank_size()));
  constexpr std::array<const char*, 6> kNames{"starting",   "running", "checkpointing",
                                              "restarting", "ending",  "ended"};
  info.set_state(kNames[static_cast<size_t>(state_)]);
  info.set_started(record_.started());
  info.set_interval_ms(record_.interval_ms());
  info.set_last_crid(record_.last_crid());
  info.set_checkpoint_dir(record_.checkpoint_dir());
  *info.mutable_command() = record_.command();
  info.set_last_error(last_error_);
  info.set_disabled(record_.disabled());
  info.set_slurm(record_.slurm());
  return info;
}

stored::Job Job::record() const {
  const std::lock_guard lock(mutex_);
  return record_;
}

// ---- the job's thread

void Job::begun(std::shared_ptr<Coordinator> coordinator, Credentials owner) {
  coordinator_ = std::move(coordinator);
  coordinator_->deadlines() = context_.options.deadlines;
  owner_ = std::move(owner);
  schedule_ = Schedule(std::chrono::milliseconds(record_.interval_ms()));
  plan_end();
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kRunning;
    record_.set_state(stored::Job::RUNNING);
    unsaved_ = true;
  }
  save();
}

std::optional<Time> Job::wake_time() const {
  std::optional<Time> wake = schedule_.next();
  if (const auto next = plan_ ? plan_->next() : std::nullopt;
      next && (!wake || next->when < *wake)) {
    wake = next->when;
  }
  for (const std::optional<Missing>& missing : missing_) {
    if (missing && (!wake || missing->until < *wake)) wake = missing->until;
  }
  return wake;
}

void Job::save() {
  stored::Job record;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(unsaved_, false)) return;
    record = record_;
  }
  if (const Status saved = context_.store.put(record); !saved) {
    log_error(fmt::format("job {}: a restarted coordinator will not know all of it: {}",
                          to_string(step_), saved.message()));
  }
}

void Job::work(const std::stop_token& stop) {
  stop_ = stop;
  const std::stop_callback interrupt(stop, [this] {
    const std::lock_guard lock(mutex_);
    give_up_.request_stop();
  });
  while (!stop.stop_requested()) {
    save();
    Task task;
    {
      std::unique_lock lock(mutex_);
      const auto something = [&] {
        return ending_ || living_ == 0 || unsaved_ || missing_changed_ || !tasks_.empty();
      };
      const std::optional<Time> wake = wake_time();
      if (wake) {
        changed_.wait_until(lock, stop, *wake, something);
      } else {
        changed_.wait(lock, stop, something);
      }
      missing_changed_ = false;
      look_for_lost_pods();
      if (ending_ || living_ == 0) break;
      if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    const std::optional<EndPlan::Next> next = plan_ ? plan_->next() : std::nullopt;
    if (task) {
      task(Status::ok());
    } else if (next && next->when <= std::chrono::steady_clock::now()) {
      follow_plan(next->act);
    } else if (schedule_.due()) {
      const bool soon = plan_ && plan_->leaves_no_time(std::chrono::steady_clock::now());
      const bool no_set = soon || winds_up();
      if (const std::unique_lock lock(mutex_); no_set || !enabled()) {
        schedule_.advance();
        continue;
      }
      Wish wish;
      wish.asked_for = false;
      [[maybe_unused]] const TriedSet tried = take_set(wish);
      schedule_.advance();
    }
  }
  // Why it ends is known before it does: also after a crash in between.
  save();
  if (!stop.stop_requested() && end_pods(stop)) finish();
}

}  // namespace fermata::coord
