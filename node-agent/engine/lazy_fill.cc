#include "node-agent/engine/lazy_fill.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "common/fault_point.h"

namespace fermata::engine {
namespace {

// A block of an image: what has to be read and compared before a page of it can be given.
constexpr uint64_t kUnit = 1U << 20;
constexpr unsigned kThreads = 3;
// Below that a map is filled at once: quicker than to answer for it.
constexpr uint64_t kLeast = 64U << 10;
// While that is put nobody hears of events: not long.
constexpr uint64_t kAtATime = 64U << 10;
constexpr std::chrono::microseconds kMoment{50};
constexpr int kNice = -10;

bool may_come_later(const image::Vma& vma) {
  const auto leaves_out = [](int advice) {
    return advice == MADV_DONTFORK || advice == MADV_WIPEONFORK;
  };
  return vma.backing() == image::Vma::ANONYMOUS && !vma.shared() && !vma.locked() &&
         vma.huge_page_size() == 0 &&
         std::none_of(vma.advice().begin(), vma.advice().end(), leaves_out);
}

/// Maps that may come later, those side by side as one: two of them that the program makes one
/// map again (mprotect) become one only where the same userfaultfd watches both, and mremap of what
/// stays two fails.
Extents adjoining_maps(const image::Process& process) {
  Extents runs;
  for (const image::Vma& vma : process.vmas()) {
    if (!may_come_later(vma)) continue;
    const bool adjoins = !runs.empty() && runs.back().address + runs.back().length == vma.start();
    if (!adjoins) runs.push_back({vma.start(), 0});
    runs.back().length = vma.end() - runs.back().address;
  }
  return runs;
}

/// Whether a run of maps has contents in more than one of them.
bool is_divided(const image::Process& process, const Extent& run, const Extents& contents) {
  return std::count_if(process.vmas().begin(), process.vmas().end(), [&](const image::Vma& vma) {
           return vma.start() >= run.address && vma.start() < run.address + run.length &&
                  !part_of(contents, vma.start(), vma.end()).empty();
         }) > 1;
}

/// While no page of a map was written the kernel knows nothing that its parts have in common, once
/// their protections divide it (an anon_vma, mm/rmap.c): each gets its own with the first page that
/// comes, in whatever order, and they are never one map again. So one is written before, and goes.
Status mark_as_one(RebuildRemote& remote, const Extent& run, uint64_t page) {
  constexpr std::array<std::byte, 1> kZero{};
  // It may be a huge page.
  FERMATA_TRY(remote.write_memory(page, kZero));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long done,
      remote.call("madvise", SYS_madvise, {run.address, run.length, MADV_DONTNEED}));
  return Status::ok();
}

}  // namespace

// setpriority(2), C library differences: a thread's own.
void LazyFill::step_forward() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
}

LazyFill::Region::Region(const MemoryRegion& region)
    : units(region, kUnit), states(units.count(), State::kDone) {}

Result<std::unique_ptr<LazyFill>> LazyFill::start(Events events) {
  std::unique_ptr<LazyFill> fill(new LazyFill(std::move(events)));
  fill->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fill->wake_) return errno_failure(errno, "eventfd");
  try {
    fill->listener_ = std::thread([fill = fill.get()] { fill->listen(); });
    for (unsigned i = 0; i < kThreads; ++i) {
      fill->workers_.emplace_back([fill = fill.get(), urgent = i == 0] { fill->work(urgent); });
    }
  } catch (const std::system_error& error) {
    // One for who waits, and one for all else.
    if (fill->workers_.size() < 2) {
      return failure(Code::kInternal,
                     fmt::format("no threads for a lazy restart: {}", error.what()));
    }
  }
  return fill;
}

LazyFill::~LazyFill() {
  {
    // What was never to run is not read for.
    const std::lock_guard lock(queue_);
    if (!closed_ && failure_) failure_ = {Code::kGone, "the restart was given up"};
  }
  all_taken();
  for (std::thread& worker : workers_) worker.join();
  if (listener_.joinable()) listener_.join();
}

Result<Extents> LazyFill::take(RebuildRemote& remote, const image::Process& process,
                               const MemoryRegion& region) {
  const Extents here = only(region.extents, Where::kHere);
  Extents maps;
  Extents later;
  for (const Extent& run : adjoining_maps(process)) {
    const Extents contents = part_of(here, run.address, run.address + run.length);
    if (total_length(contents) < kLeast) continue;
    maps.push_back(run);
    later = united(later, contents);
  }
  if (later.empty()) return here;
  for (const Extent& run : maps) {
    const Extents contents = part_of(later, run.address, run.address + run.length);
    if (!is_divided(process, run, contents)) continue;
    FERMATA_TRY_RESULT(mark_as_one(remote, run, contents.front().address));
  }
  FERMATA_ASSIGN(UniqueFd descriptor, open_lazy(remote, maps));
  MissingPages missing;
  auto made = std::make_unique<Region>(region);
  for (const Extent& extent : later) {
    missing.add(extent.address, extent.address, extent.length);
    const size_t last = made->units.unit_of(extent.address + extent.length - kPageSize);
    for (size_t unit = made->units.unit_of(extent.address); unit <= last; ++unit) {
      made->states[unit] = State::kWaiting;
    }
  }
  Listened listened{
      std::make_unique<LazySpace>(std::move(descriptor), remote.pid(), std::move(missing)),
      made.get()};
  made->spaces.push_back(listened.space.get());
  {
    const std::unique_lock moving(moving_);
    listened_.push_back(std::move(listened));
  }
  {
    const std::lock_guard lock(queue_);
    left_ +=
        static_cast<size_t>(std::count(made->states.begin(), made->states.end(), State::kWaiting));
    regions_.push_back(std::move(made));
  }
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
  return without(here, later);
}

void LazyFill::all_taken() {
  {
    const std::lock_guard lock(queue_);
    closed_ = true;
  }
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
}

Status LazyFill::finish(std::chrono::milliseconds at_most) {
  std::unique_lock lock(queue_);
  const bool over = changed_.wait_for(lock, at_most, [&] { return filled_ || !failure_; });
  if (!failure_) return failure_;
  if (over) return Status::ok();
  return {Code::kTimeout, "memory of the restart is still being read"};
}

size_t LazyFill::left() {
  const std::lock_guard lock(queue_);
  return left_;
}

// ---- workers

/// Pages that somebody waits for, and, unless `urgent`, what is next when nobody does.
bool LazyFill::next_work(Work& work, bool urgent) {
  std::unique_lock lock(queue_);
  if (work.waits) --served_;
  work.waits = false;
  if (served_ == 0) changed_.notify_all();
  for (;;) {
    if (!failure_ || (closed_ && left_ == 0)) return false;
    while (!urgent_.empty()) {
      work = urgent_.front();
      urgent_.pop_front();
      State& state = work.region->states[work.unit];
      if (state != State::kWaiting) continue;  // whoever has it wakes who waits
      state = State::kTaken;
      ++served_;
      return true;
    }
    work.waits = false;
    if (!urgent && closed_ && served_ == 0 && next_in_order(work)) return true;
    changed_.wait(lock);
  }
}

bool LazyFill::next_in_order(Work& work) {
  for (const std::unique_ptr<Region>& region : regions_) {
    std::vector<State>& states = region->states;
    while (region->next < states.size() && states[region->next] != State::kWaiting) ++region->next;
    if (region->next == states.size()) continue;
    work = {region.get(), region->next, 0, false};
    states[region->next] = State::kTaken;
    return true;
  }
  return false;
}

void LazyFill::work(bool urgent) {
  if (urgent) step_forward();
  const FillBuffer buffer = make_fill_buffer(kUnit);
  if (!buffer) return lose({Code::kInternal, "no memory for the pages of a lazy restart"});
  Work work;
  while (next_work(work, urgent)) {
    if (is_wanted(*work.region)) {
      const Result<size_t> length = work.region->units.read(work.unit, buffer.get());
      const Status status = length ? deliver(work, buffer.get()) : length.error();
      if (!status) return lose(status);
    }
    done_with(*work.region, work.unit);
  }
}

bool LazyFill::is_wanted(const Region& region) {
  const std::shared_lock moving(moving_);
  return std::any_of(region.spaces.begin(), region.spaces.end(),
                     [](const LazySpace* space) { return !space->gone(); });
}

Status LazyFill::deliver(const Work& work, const std::byte* bytes) {
  FAULT_POINT("lazy.unit");
  // Who waits goes first.
  const std::span<const FillUnits::Piece> pieces = work.region->units.pieces(work.unit);
  const std::byte* at = bytes;
  for (const FillUnits::Piece& piece : pieces) {
    if (work.waits && work.then >= piece.address && work.then - piece.address < piece.length) {
      FERMATA_TRY(put(*work.region, work.then, {at + (work.then - piece.address), kPageSize}));
    }
    at += piece.length;
  }
  at = bytes;
  for (const FillUnits::Piece& piece : pieces) {
    for (uint64_t done = 0; done < piece.length; done += kAtATime) {
      const uint64_t length = std::min(kAtATime, piece.length - done);
      FERMATA_TRY(put(*work.region, piece.address + done, {at + done, length}));
    }
    at += piece.length;
  }
  return Status::ok();
}

/// To all that want it. Between two calls the listener may hear of a fork: the child has what was
/// put before, and is one of all from then on.
Status LazyFill::put(const Region& region, uint64_t then, std::span<const std::byte> bytes) {
  for (;;) {
    while (hearing_) std::this_thread::sleep_for(kMoment);
    {
      const std::shared_lock moving(moving_);
      Put worst = Put::kDone;
      for (LazySpace* space : region.spaces) {
        FERMATA_ASSIGN_STATUS(const Put put, space->put(then, bytes));
        if (put != Put::kDone) worst = put;
      }
      if (worst == Put::kDone) return Status::ok();
    }
    ::eventfd_write(wake_.get(), 1);
    std::this_thread::sleep_for(kMoment);
  }
}

void LazyFill::done_with(Region& region, size_t unit) {
  bool last = false;
  {
    const std::lock_guard lock(queue_);
    region.states[unit] = State::kDone;
    last = --left_ == 0 && closed_;
  }
  if (!last) return;
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
}

void LazyFill::lose(const Status& status) {
  {
    const std::lock_guard lock(queue_);
    if (!failure_) return;
    failure_ = status;
  }
  changed_.notify_all();
  ::eventfd_write(wake_.get(), 1);
  events_.lost(status);
}

}  // namespace fermata::engine
