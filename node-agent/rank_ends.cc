#include "node-agent/rank_ends.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <string>

#include "common/log.h"
#include "node-agent/record_file.h"

namespace fermata::node_agent {
namespace {

/// In one write: whole lines, whoever else writes. No fsync: what a machine forgets that crashes,
/// its pods forget as well.
void add(int file, const std::string& line) {
  if (write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size())) return;
  log_error(errno_status(errno, "writing down how a rank ended").message());
}

}  // namespace

Result<std::shared_ptr<RankEnds>> RankEnds::open(const std::filesystem::path& file,
                                                 const std::vector<uint32_t>& ranks) {
  UniqueFd opened(
      ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!opened) return errno_failure(errno, file.native());
  return std::shared_ptr<RankEnds>(new RankEnds(std::move(opened), ranks));
}

void RankEnds::ended(uint32_t rank, int wait_status) {
  const std::lock_guard lock(mutex_);
  if (running_.erase(rank) == 0) return;
  add(file_.get(), fmt::format("rank {} {}\n", rank, wait_status));
}

void RankEnds::signalled(int signo) {
  const std::lock_guard lock(mutex_);
  if (!signals_.insert(signo).second) return;
  add(file_.get(), fmt::format("signal 0 {}\n", signo));
}

std::optional<int> KnownEnds::status_of(std::span<const uint32_t> ranks) const {
  if (ranks.empty()) return std::nullopt;
  int highest = 0;
  for (const uint32_t rank : ranks) {
    const auto found = statuses.find(rank);
    if (found == statuses.end()) return std::nullopt;
    const int status = found->second;
    highest = std::max(highest, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
  return W_EXITCODE(highest, 0);
}

KnownEnds read_rank_ends(const std::filesystem::path& file) {
  KnownEnds known;
  std::istringstream lines(trusted_record(file).value_or(""));
  std::string kind;
  uint32_t rank = 0;
  int number = 0;
  while (lines >> kind >> rank >> number) {
    if (kind == "rank") known.statuses[rank] = number;
    if (kind == "signal") known.signal = number;
  }
  return known;
}

}  // namespace fermata::node_agent
