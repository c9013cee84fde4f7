// Who asks: a request travels with a credential that binds it. munge makes and checks them
// (munge.h); tests may have their own. Thread-safe; calls may block for as long as munged does.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// The user who made a credential.
struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
};

/// Who may do everything: root and SlurmUser.
struct Admins {
  std::optional<uid_t> slurm_uid;

  bool contains(uid_t uid) const { return uid == 0 || (slurm_uid && *slurm_uid == uid); }
};

/// Root and the user of this name (config key slurm_user); where there is no such user, root alone.
Result<Admins> admins_of(std::string_view slurm_user);

class Authenticator {
 public:
  Authenticator() = default;
  Authenticator(const Authenticator&) = delete;
  Authenticator& operator=(const Authenticator&) = delete;
  virtual ~Authenticator() = default;

  /// A credential of this process's user for one request to one method.
  virtual Result<std::string> make(std::string_view method, std::string_view request) = 0;
  /// Whose credential it is. kPermission, with the reason, unless it is good, unused, and made for
  /// this method and request.
  virtual Result<Identity> check(std::string_view credential, std::string_view method,
                                 std::string_view request) = 0;
};

}  // namespace fermata
