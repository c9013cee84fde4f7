#include "common/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "common/file_util.h"
#include "common/size_parse.h"
#include "common/time_parse.h"

namespace fermata {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTerminalPeriod{100};
constexpr milliseconds kLinePeriod{10'000};
// Carriage return, and "erase to the end of the line" (ECMA-48 EL).
constexpr const char* kRewrite = "\r\033[K";

/// Progress that cannot be shown is no reason to stop the work.
void say(int fd, const std::string& text) { (void)write_all(fd, text, "progress"); }

}  // namespace

Progress::Progress(std::string what, uint64_t total, int fd)
    : what_(std::move(what)), total_(total), fd_(fd), terminal_(::isatty(fd) == 1) {}

Progress::~Progress() {
  if (line_open_) say(fd_, kRewrite);
}

void Progress::advance(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  const auto now = Clock::now();
  if (!finished_ && now - shown_ >= (terminal_ ? kTerminalPeriod : kLinePeriod)) show(now);
}

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(finished_, true)) return;
  const auto now = Clock::now();
  const auto elapsed = std::chrono::duration_cast<milliseconds>(now - start_);
  say(fd_, fmt::format("{}{}: {} in {}{}\n", line_open_ ? kRewrite : "", what_, format_size(done_),
                       format_duration(elapsed), rate(now)));
  line_open_ = false;
}

std::string Progress::rate(Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  // Below a millisecond a rate is noise.
  if (seconds < 0.001 || done_ == 0) return {};
  return fmt::format(", {}/s",
                     format_size(static_cast<uint64_t>(static_cast<double>(done_) / seconds)));
}

void Progress::show(Clock::time_point now) {
  shown_ = now;
  std::string amount = format_size(done_);
  if (total_ != 0) {
    const double percent = 100.0 * static_cast<double>(done_) / static_cast<double>(total_);
    amount = fmt::format("{:.0f} % of {}", std::min(percent, 100.0), format_size(total_));
  }
  say(fd_, fmt::format("{}{}: {}{}{}", terminal_ ? kRewrite : "", what_, amount, rate(now),
                       terminal_ ? "" : "\n"));
  line_open_ = terminal_;
}

}  // namespace fermata
