// The way of a command to the coordinator, where there is one. One thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/control_client.h"
#include "common/munge.h"

namespace fermata::cli {

/// While it lives, a setuid `fermata` has the rights of who called it: munge tells the coordinator
/// the effective user, and what it answers names files to be read. For all threads.
class AsCaller {
 public:
  AsCaller();
  AsCaller(const AsCaller&) = delete;
  AsCaller& operator=(const AsCaller&) = delete;
  ~AsCaller();

 private:
  const uid_t uid_;
  const gid_t gid_;
};

class CoordinatorAccess {
 public:
  /// None where the invocation has no coordinator: work is done on this machine, by this process.
  static std::unique_ptr<CoordinatorAccess> of(const Invocation& invocation);

  explicit CoordinatorAccess(const Invocation& invocation)
      : authenticator_(munge_socket(invocation.config)),
        address_(invocation.coordinator()),
        client_(address_, authenticator_) {}

  ControlClient& client() { return client_; }
  /// For another thread.
  std::unique_ptr<ControlClient> another_client() {
    return std::make_unique<ControlClient>(address_, authenticator_);
  }

 private:
  AsCaller as_caller_;
  MungeAuthenticator authenticator_;
  std::string address_;
  ControlClient client_;
};

/// What a request for a job of this machine alone is told: which option needs a coordinator.
Failure needs_coordinator(std::string_view option);

/// "a,b,c".
std::vector<std::string> split_names(std::string_view list);

}  // namespace fermata::cli
