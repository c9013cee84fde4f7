// A munged of the test's own, with its own key and socket, in a scratch folder; ended with the
// object. Root.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/munge.h"
#include "tests/support/scratch_folder.h"

namespace fermata {

class Munged {
 public:
  Munged() {
    std::random_device random;
    std::ofstream key(folder_ / "key", std::ios::binary);
    for (int i = 0; i < 128; ++i) key.put(static_cast<char>(random()));
    key.close();
    namespace fs = std::filesystem;
    fs::permissions(folder_ / "key", fs::perms::owner_read | fs::perms::owner_write);
    // Other users of the test connect too.
    fs::permissions(folder_.path(), fs::perms(0755));
    start();
  }
  Munged(const Munged&) = delete;
  Munged& operator=(const Munged&) = delete;
  ~Munged() { stop(); }

  std::filesystem::path socket() const { return folder_ / "socket"; }

  /// Ends it by SIGKILL.
  void stop() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  /// Stops and continues it by signal.
  void pause() const { ::kill(pid_, SIGSTOP); }
  void resume() const { ::kill(pid_, SIGCONT); }

 private:
  void start() {
    const auto file = [this](const char* option, const char* name) {
      return std::string(option) + "=" + (folder_ / name).string();
    };
    std::vector<std::string> words{
        "munged", "--foreground", "--force", file("--key-file", "key"), file("--socket", "socket"),
        file("--pid-file", "pid"), file("--log-file", "log"), file("--seed-file", "seed"),
        // The answers, not their speed, are tested; two threads serve all.
        "--num-threads=2"};
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      // With the test it ends, however that ends.
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int null = ::open("/dev/null", O_RDWR);
      for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
      ::execv("/usr/sbin/munged", arguments.data());
      ::_exit(127);
    }
    if (pid_ < 0) throw std::runtime_error("fork");
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!make_credential(socket(), "up", "")) {
      if (std::chrono::steady_clock::now() > give_up) {
        stop();
        throw std::runtime_error("munged does not come up: is the package munge installed?");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  ScratchFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace fermata
