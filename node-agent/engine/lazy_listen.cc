// The other half of lazy_fill.h: the thread that hears what the program does with its memory.
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "node-agent/engine/lazy_fill.h"
#include "node-agent/engine/maps.h"

namespace fermata::engine {
void LazyFill::listen() {
  step_forward();
  std::vector<Fault> faults;
  std::vector<pollfd> waits;
  bool unclear = false;
  for (;;) {
    {
      const std::lock_guard lock(queue_);
      if (!failure_) return;
      if (closed_ && left_ == 0) break;
    }
    {
      const std::shared_lock moving(moving_);
      waits.assign(1, {wake_.get(), POLLIN, 0});
      for (const Listened& one : listened_) waits.push_back({one.space->descriptor(), POLLIN, 0});
    }
    const int patience = faults.empty() && !unclear ? -1 : 1;
    if (::poll(waits.data(), waits.size(), patience) < 0 && errno != EINTR) {
      return lose(errno_status(errno, "waiting for page faults"));
    }
    eventfd_t count = 0;
    (void)::eventfd_read(wake_.get(), &count);
    Status status;
    {
      hearing_ = true;
      const std::unique_lock moving(moving_);
      hearing_ = false;
      // A fork adds to the list: its own are read the next time.
      size_t known = waits.size() - 1;
      unclear = false;
      for (auto one = listened_.begin(); status && known > 0; ++one, --known) {
        status = hear(*one, faults);
        unclear = unclear || one->space->unclear();
      }
    }
    if (status) status = serve(faults);
    if (!status) return lose(status);
  }
  let_go();
}

Status LazyFill::hear(Listened& listened, std::vector<Fault>& faults) {
  std::vector<uint64_t> pages;
  FERMATA_TRY(listened.space->hear(
      pages, [&](UniqueFd child) { return forked(listened, std::move(child)); }));
  for (const uint64_t page : pages) {
    faults.push_back({listened.space.get(), listened.region, page});
  }
  return Status::ok();
}

/// The child has what its parent had, and wants what its parent wants, but for what the program has
/// wiped in forks (MADV_WIPEONFORK) since it was restarted: that is zeros there.
Status LazyFill::forked(Listened& parent, UniqueFd descriptor) {
  MissingPages missing = parent.space->missing();
  const pid_t pid = parent.space->pid();
  for (const pid_t one : pid >= 0 ? std::vector<pid_t>{pid} : events_.processes()) {
    const Result<std::vector<Map>> maps = read_smaps(one);
    if (!maps) continue;  // it has ended
    for (const Map& map : *maps) {
      const bool wiped = std::find(map.flags.begin(), map.flags.end(), "wf") != map.flags.end();
      if (!wiped || !missing.any(map.start, map.end - map.start)) continue;
      if (pid < 0) {
        return {Code::kUnsupported,
                fmt::format("a child forks, and process {} has memory that is wiped in forks and "
                            "had not been read yet: restart it without --lazy",
                            one)};
      }
      missing.remove(map.start, map.end - map.start);
    }
  }
  Listened child{std::make_unique<LazySpace>(std::move(descriptor), -1, std::move(missing)),
                 parent.region};
  parent.region->spaces.push_back(child.space.get());
  listened_.push_back(std::move(child));
  return Status::ok();
}

/// Keeps in `faults` what has to wait for an event.
Status LazyFill::serve(std::vector<Fault>& faults) {
  std::vector<Fault> later;
  for (const Fault& fault : faults) {
    const std::shared_lock moving(moving_);
    if (fault.space->unclear()) {
      later.push_back(fault);
      continue;
    }
    const std::optional<uint64_t> then = fault.space->then_of(fault.address);
    if (then) {
      {
        const std::lock_guard lock(queue_);
        urgent_.push_back({fault.region, fault.region->units.unit_of(*then), *then, true});
      }
      changed_.notify_all();
      continue;
    }
    FERMATA_ASSIGN_STATUS(const Put put, fault.space->put_zeros(fault.address));
    if (put == Put::kLater) later.push_back(fault);
  }
  faults = std::move(later);
  return Status::ok();
}

/// Nothing is missing anywhere: with its descriptor a map is one like any other again, and who
/// waits for a page that is not in the image has it from the kernel.
void LazyFill::let_go() {
  {
    const std::unique_lock moving(moving_);
    for (const std::unique_ptr<Region>& region : regions_) region->spaces.clear();
    listened_.clear();
  }
  events_.filled();
  {
    const std::lock_guard lock(queue_);
    filled_ = true;
  }
  changed_.notify_all();
}

}  // namespace fermata::engine
