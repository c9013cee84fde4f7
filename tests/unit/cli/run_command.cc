#include "tests/unit/cli/run_command.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace fermata::cli {
namespace {

[[noreturn]] void become_fermata(const std::vector<std::string>& arguments,
                                 const std::string& folder,
                                 const std::vector<std::string>& environment, uid_t uid, int out,
                                 int err) {
  dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const std::string& entry : environment) putenv(strdup(entry.c_str()));
  std::vector<char*> argv{strdup("fermata")};
  for (const std::string& argument : arguments) argv.push_back(strdup(argument.c_str()));
  argv.push_back(nullptr);
  const int command =
      open(FERMATA_COMMAND, O_PATH | O_CLOEXEC);  // folders above may be closed to `uid`
  if (chdir(folder.c_str()) != 0 || (uid != getuid() && setresuid(uid, uid, uid) != 0)) _exit(99);
  fexecve(command, argv.data(), environ);
  _exit(98);
}

}  // namespace

Said run_fermata(const std::vector<std::string>& arguments, const std::string& folder,
                 const std::vector<std::string>& environment, uid_t uid,
                 const std::vector<int>& ignored_signals) {
  Said said;
  std::array<int, 2> out{};
  std::array<int, 2> err{};
  if (pipe2(out.data(), O_CLOEXEC) != 0 || pipe2(err.data(), O_CLOEXEC) != 0) return said;
  const pid_t pid = fork();
  if (pid == 0) {
    for (const int signo : ignored_signals) signal(signo, SIG_IGN);
    become_fermata(arguments, folder, environment, uid, out[1], err[1]);
  }
  close(out[1]);
  close(err[1]);
  std::array<pollfd, 2> waits{pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  const std::array<std::string*, 2> texts{&said.out, &said.err};
  int open_ends = 2;
  while (open_ends > 0 && (poll(waits.data(), waits.size(), -1) > 0 || errno == EINTR)) {
    for (size_t i = 0; i < waits.size(); ++i) {
      if (waits[i].revents == 0) continue;
      std::array<char, 4096> buffer{};
      const ssize_t got = read(waits[i].fd, buffer.data(), buffer.size());
      if (got > 0) {
        texts[i]->append(buffer.data(), static_cast<size_t>(got));
      } else {
        waits[i].fd = -1;
        --open_ends;
      }
    }
  }
  close(out[0]);
  close(err[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  said.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return said;
}

}  // namespace fermata::cli
