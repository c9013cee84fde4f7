#include "slurm/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "common/programs.h"
#include "common/unique_fd.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not every libc has it

namespace fermata {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kHelper = "fermata-slurm";

/// To its end; nullopt: that does not come in time.
std::optional<std::string> read_all(int fd, std::chrono::milliseconds within) {
  using std::chrono::steady_clock;
  const auto until = steady_clock::now() + within;
  std::string text;
  std::array<char, 65536> buffer{};
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now());
    if (left.count() <= 0) return std::nullopt;
    pollfd source{fd, POLLIN, 0};
    if (poll(&source, 1, static_cast<int>(left.count())) <= 0) continue;
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
}

}  // namespace

bool has_slurm() {
  const char* named = getenv("SLURM_CONF");
  std::error_code error;
  const bool configured =
      named != nullptr ? *named != '\0' : fs::exists("/etc/slurm/slurm.conf", error);
  return configured && find_own_program(kHelper).has_value();
}

Result<json> ask_slurm(const std::vector<std::string>& words, std::chrono::milliseconds within) {
  FERMATA_ASSIGN(const fs::path path, find_own_program(kHelper));
  const std::string& program = path.native();
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return errno_failure(errno, "pipe");
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  std::vector<std::string> all{program};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
  // Slurm is asked as who called a setuid program.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_RESETIDS);
  pid_t child = 0;
  const int spawned =
      posix_spawn(&child, program.c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return errno_failure(spawned, program);
  to.reset();
  const std::optional<std::string> text = read_all(from.get(), within);
  if (!text) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!text) {
    return failure(Code::kTimeout, fmt::format("Slurm's slurmctld does not answer ({} {})", program,
                                               words.front()));
  }
  json answer = json::parse(*text, nullptr, false);
  if (!answer.is_object()) {
    return failure(Code::kUnsupported, fmt::format("{} {}: no answer", program, words.front()));
  }
  if (!answer.contains("error")) return answer;
  return failure(static_cast<Code>(answer.value("code", static_cast<int>(Code::kUnsupported))),
                 answer.value("error", ""));
}

}  // namespace fermata
