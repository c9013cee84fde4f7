// The socket at which the stubs of Slurm's tasks come to the agent: who is there, what they say and
// what they hand over. What it means is the desk's (step_desk.h).
//
// Anybody on the node may connect, so a guest that is not known as a task costs little and not for
// long, and descriptors are taken from root's connections alone: closing one of a user's own file
// system (FUSE) waits for that user.
//
// open(), begin(): once, in this order. What is called back comes from the door's thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "common/status.h"
#include "common/stub_message.h"
#include "common/unique_fd.h"

namespace fermata::node_agent {

/// Closes them in a thread of their own: it may take as long as the file system behind them likes.
void close_elsewhere(std::vector<UniqueFd> files);

/// False: who is told is gone, or does not listen.
bool tell_stub(int fd, const StubFields& fields);

/// Whether the other end of a connection is still held.
bool stub_is_there(int fd);

class StepDoor {
 public:
  struct Said {
    int guest;  ///< number of the connection, and its descriptor while this is heard
    pid_t pid;  ///< who connected
    uid_t uid;
    StubFields fields;
    std::vector<UniqueFd> with;  ///< with uid 0 alone
  };
  struct Events {
    /// False: the guest is not, or not any more, a task: it has to go.
    std::function<bool(Said said)> said;
    /// A guest has gone.
    std::function<void(int guest)> left;
    /// Some seconds have passed. False: it is not to be told again.
    std::function<bool()> time_passed;
  };

  /// Listens; nobody is heard before begin().
  static Result<std::unique_ptr<StepDoor>> open(const std::filesystem::path& socket);
  StepDoor(const StepDoor&) = delete;
  StepDoor& operator=(const StepDoor&) = delete;
  ~StepDoor();

  void begin(Events events);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Guest {
    UniqueFd fd;
    pid_t pid = 0;
    uid_t uid = 0;
    bool known = false;  ///< as a task
    Time since;
  };

  explicit StepDoor(UniqueFd listener);
  void work();
  void welcome();
  void hear(int fd);
  void part(int fd);
  bool listen(bool on);
  Time look_after(Time now);

  const UniqueFd listener_;
  UniqueFd poll_;
  UniqueFd stop_;
  Events events_;
  std::map<int, Guest> guests_;  ///< by descriptor
  Time closed_until_;            ///< where no descriptor was left
  bool closed_ = false;
  bool ticks_ = true;
  Time next_tick_;

  std::thread thread_;  ///< the last member: it uses the others
};

}  // namespace fermata::node_agent
