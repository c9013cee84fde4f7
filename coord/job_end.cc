// How a job ends: by itself, or everywhere because one pod of it is gone.
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <ctime>

#include "common/log.h"
#include "coord/job.h"
#include "coord/orders.h"
#include "coord/wire.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

Errand errand_to(const stored::Job& record, uint32_t pod) {
  Errand errand{record.pods(static_cast<int>(pod)).node(), {}};
  *errand.order.mutable_pod() = to_wire(pod_of(record, pod));
  return errand;
}

}  // namespace

std::vector<uint32_t> Job::reachable_pods() const {
  std::vector<uint32_t> pods;
  for (uint32_t i = 0; i < missing_.size(); ++i) {
    if (!record_.pods(static_cast<int>(i)).ended() && !missing_[i]) pods.push_back(i);
  }
  return pods;
}

bool Job::end_pods(const std::stop_token& stop) {
  std::vector<Errand> term;
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kEnding;
    // Killed as asked, or all by themselves: nobody is left to be told.
    if (!killed_) {
      for (const uint32_t pod : reachable_pods()) {
        Errand errand = errand_to(record_, pod);
        errand.order.mutable_signal()->set_signal(SIGTERM);
        term.push_back(std::move(errand));
      }
    }
    if (ending_ && !term.empty()) {
      log_warning(fmt::format("job {} is ended on all nodes: {}", to_string(step_),
                              storage::printable(ending_->why)));
    }
  }
  const Time kill_at = std::chrono::steady_clock::now() + context_.options.kill_after;
  // Those who cannot be told are killed below.
  [[maybe_unused]] const Errands told = run_errands(
      context_.fleet, std::move(term), context_.options.kill_after, Until::kAllAnswered, stop);
  std::vector<Errand> kill;
  {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, stop, kill_at, [&] { return reachable_pods().empty(); });
    for (const uint32_t pod : reachable_pods()) {
      Errand errand = errand_to(record_, pod);
      errand.order.mutable_destroy();
      kill.push_back(std::move(errand));
    }
  }
  if (stop.stop_requested()) return false;
  const Errands killed = run_errands(context_.fleet, std::move(kill), std::chrono::seconds(30),
                                     Until::kAllAnswered, stop);
  if (!killed.all_done()) {
    log_error(fmt::format("job {}: a pod may be left: {}; it is ended when its agent comes back",
                          to_string(step_), storage::printable(killed.first_failure.message())));
  }
  return !stop.stop_requested();
}

int Job::highest_status() const {
  int highest = 0;
  for (const stored::Pod& pod : record_.pods()) {
    if (!pod.ended() || !pod.status_known()) continue;
    highest = std::max(highest, exit_status_of(pod));
  }
  return highest;
}

/// "; `fermata restart 3` continues it ..."
std::string Job::wherefrom() const {
  if (record_.last_crid() == 0) return "; it has no checkpoint to be continued from";
  const std::string command = record_.slurm()
                                  ? fmt::format("srun --restart={}", record_.last_crid())
                                  : "fermata restart " + to_string(step_);
  return fmt::format("; `{}` continues it from checkpoint {}", command, record_.last_crid());
}

std::string Job::sentence() const {
  const std::string job = to_string(step_);
  if (killed_) {
    return fmt::format("job {} was ended after checkpoint {}{}", job, record_.last_crid(),
                       wherefrom());
  }
  if (ending_) return fmt::format("job {} has ended: {}{}", job, ending_->why, wherefrom());
  return {};
}

void Job::finish() {
  stored::Job record;
  {
    const std::lock_guard lock(mutex_);
    // A set that was taken before this start counts as well.
    record_.set_sentence(sentence());
    record_.set_exit_status(killed_   ? 128 + SIGKILL
                            : ending_ ? ending_->exit_status
                                      : highest_status());
    record_.set_ended(std::time(nullptr));
    record_.set_state(stored::Job::ENDED);
    record = record_;
  }
  if (const Status saved = context_.store.put(record); !saved) {
    log_error(fmt::format("job {} has ended, but a restarted coordinator will not know: {}",
                          to_string(step_), saved.message()));
  }
  {
    const std::lock_guard board(board_mutex_);
    forget_routes();
  }
  context_.nodes.release(step_);
  log_info(fmt::format("job {} has ended with status {}{}{}", to_string(step_),
                       record.exit_status(), record.sentence().empty() ? "" : ": ",
                       storage::printable(record.sentence())));
  std::vector<Requests::Respond<wire::WaitReply>> waiting;
  std::deque<Task> tasks;
  wire::WaitReply reply;
  {
    const std::lock_guard lock(mutex_);
    state_ = State::kEnded;
    if (requeued_) {
      requeued_->waiting.swap(waiting_);
    } else {
      waiting.swap(waiting_);
    }
    tasks.swap(tasks_);
    reply = wait_reply();
  }
  for (const auto& respond : waiting) respond(reply);
  for (const Task& task : tasks) {
    task({Code::kGone, fmt::format("job {} has ended", to_string(step_))});
  }
}

void Job::never_ran(const Status& status) {
  const std::lock_guard lock(mutex_);
  ending_ = Ending{status.message(), exit_code_of(status.code())};
  state_ = State::kEnding;
}

std::optional<Requeued> Job::requeued() {
  const std::lock_guard lock(mutex_);
  return std::exchange(requeued_, std::nullopt);
}

wire::WaitReply Job::wait_reply() const { return wait_reply_of(record_); }

wire::WaitReply wait_reply_of(const stored::Job& record) {
  wire::WaitReply reply;
  reply.mutable_outcome();
  reply.set_exit_status(record.exit_status());
  reply.set_sentence(record.sentence());
  reply.set_last_crid(record.last_crid());
  return reply;
}

}  // namespace fermata::coord
