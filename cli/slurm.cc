#include "cli/slurm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "common/programs.h"
#include "common/unique_fd.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): not every libc has it

namespace fermata::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kHelper = "fermata-slurm";

std::string read_all(int fd) {
  std::string text;
  std::array<char, 65536> buffer{};
  while (true) {
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

Result<json> ask_slurm(const std::vector<std::string>& words) {
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
  const std::string text = read_all(from.get());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  json answer = json::parse(text, nullptr, false);
  if (!answer.is_object()) {
    return failure(Code::kUnsupported, fmt::format("{} {}: no answer", program, words.front()));
  }
  if (!answer.contains("error")) return answer;
  return failure(static_cast<Code>(answer.value("code", static_cast<int>(Code::kUnsupported))),
                 answer.value("error", ""));
}

}  // namespace fermata::cli
