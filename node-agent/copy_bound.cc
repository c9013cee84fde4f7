#include "node-agent/copy_bound.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "common/log.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/proc_status.h"
#include "node-agent/engine/twin_reader.h"

namespace fermata::node_agent {
namespace {

using std::chrono::steady_clock;

// To stop the pod; it takes milliseconds, unless a process is in an uninterruptible call, and then
// that one writes nothing.
constexpr int kStopMs = 200;
// Until the twins go: they are what takes the memory.
constexpr unsigned kTries = 3;
// Where the thread cannot be of real-time priority.
constexpr int kHighest = -20;

/// Who has to stop writers is not to wait for a processor behind them (sched(7)). Forks of it are
/// as others are.
void go_first() {
  sched_param parameters{};
  parameters.sched_priority = ::sched_get_priority_min(SCHED_FIFO);
  if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters) == 0) return;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kHighest);
}

std::vector<pid_t> pids_of(const std::vector<engine::TwinProcess>& twins) {
  std::vector<pid_t> pids;
  for (const engine::TwinProcess& twin : twins) pids.push_back(twin.pid);
  return pids;
}

/// A zombie has no memory any more.
bool has_ended(const engine::TwinProcess& twin) {
  const Result<engine::ProcStat> stat = engine::ProcStat::read(twin.pid);
  return !stat || stat->state() == 'Z' || stat->state() == 'X';
}

bool is_ending(const engine::TwinProcess& twin) {
  constexpr size_t kFlags = 9;           // proc_pid_stat(5)
  constexpr uint64_t kExiting = 1 << 2;  // PF_EXITING, <linux/sched.h>
  const Result<engine::ProcStat> stat = engine::ProcStat::read(twin.pid);
  return !stat || (stat->field(kFlags) & kExiting) != 0;
}

}  // namespace

PodRoom::PodRoom(const std::filesystem::path& group, std::optional<uint64_t> budget)
    : real_(group), budget_(budget), at_first_(real_.bytes()) {}

uint64_t PodRoom::bytes(uint64_t enough) const {
  if (!budget_) return real_.bytes(enough);
  const uint64_t now = real_.bytes();
  const uint64_t taken = at_first_ - std::min(at_first_, now);
  return std::min(now, *budget_ - std::min(*budget_, taken));
}

CopyBound::CopyBound(std::filesystem::path group, pid_t init, const PodRoom& room, ThawGuard guard,
                     std::vector<engine::TwinProcess> twins)
    : group_(std::move(group)),
      init_(init),
      room_(room),
      twins_(std::move(twins)),
      guard_(std::move(guard)) {}

Status CopyBound::begin(unsigned writers, uint64_t reserved) {
  // The page tables of the twins may have taken what was enough: then it stands still until there
  // is more.
  const WaterMarks marks =
      WaterMarks::of(room_.bytes(), writers, reserved).value_or(WaterMarks::always());
  try {
    thread_ = std::thread([this, marks] { run(marks); });
  } catch (const std::system_error& error) {
    return {Code::kBusy, fmt::format("no thread to watch over memory: {}", error.what())};
  }
  return Status::ok();
}

CopyBound::~CopyBound() { end(); }

void CopyBound::end() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  wake_.notify_all();
  thread_.join();
  log_debug(fmt::format("held {} times for want of memory, {:.1f} ms in all", holds_made_,
                        std::chrono::duration<double, std::milli>(held_).count()));
}

bool CopyBound::lost_a_twin() const {
  return std::any_of(twins_.begin(), twins_.end(), [](const engine::TwinProcess& twin) {
    return is_ending(twin) || has_ended(twin);
  });
}

void CopyBound::end_twins() {
  constexpr std::chrono::seconds kAtMost(10);
  constexpr std::chrono::milliseconds kPause(1);
  const auto until = steady_clock::now() + kAtMost;
  set_twins_nice(0);
  for (const engine::TwinProcess& twin : twins_) ::kill(twin.pid, SIGKILL);
  for (const engine::TwinProcess& twin : twins_) {
    while (!has_ended(twin) && steady_clock::now() < until) std::this_thread::sleep_for(kPause);
  }
}

void CopyBound::run(WaterMarks marks) {
  go_first();
  std::unique_lock lock(mutex_);
  while (!over_) {
    lock.unlock();
    const uint64_t room = room_.bytes(marks.enough());
    const bool stand = trouble_ && marks.holds(room, frozen_ != nullptr);
    short_ = stand || room < marks.scarce();
    if (stand && !frozen_) hold(/*last_moment=*/room < marks.low() / 2);
    if (!stand && frozen_) let_go();
    const auto pause = marks.next_look(room, frozen_ != nullptr);
    lock.lock();
    wake_.wait_for(lock, pause, [this] { return over_; });
  }
  lock.unlock();
  let_go();
}

void CopyBound::hold(bool last_moment) {
  // Suspended by somebody else it writes nothing, and is theirs to let go.
  if (engine::is_to_be_frozen(group_)) return;
  const auto now = steady_clock::now();
  Result<std::unique_ptr<engine::FrozenPod>> frozen =
      engine::FrozenPod::freeze(group_, init_, kStopMs, /*left_frozen=*/false, pids_of(twins_));
  if (!frozen) {
    // One that ended takes nothing.
    if (frozen.error().code() == Code::kGone) return;
    if (++failures_ >= kTries && last_moment) give_up(frozen.error());
    return;
  }
  failures_ = 0;
  since_ = now;
  frozen_ = *std::move(frozen);
  ++holds_made_;
  // Somebody waits.
  set_twins_nice(0);
  holds_ = true;
}

void CopyBound::let_go() {
  if (!frozen_) return;
  holds_ = false;
  set_twins_nice(engine::TwinReader::kNice);
  if (const Status resumed = frozen_->resume(); !resumed) log_error(resumed.message());
  frozen_.reset();
  held_ += steady_clock::now() - since_;
}

void CopyBound::give_up(const Status& reason) {
  trouble_ = {Code::kBusy,
              fmt::format("memory was short while the set was written, and the pod could not be "
                          "stopped for it to be freed: {}",
                          reason.message())};
  for (const engine::TwinProcess& twin : twins_) ::kill(twin.pid, SIGKILL);
}

void CopyBound::set_twins_nice(int nice) const {
  for (const engine::TwinProcess& twin : twins_) {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(twin.pid), nice);
  }
}

}  // namespace fermata::node_agent
