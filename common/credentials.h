// Who a job belongs to, and acting on the file system as that user. FsCredentialScope changes the
// calling thread only (raw setgroups, setfsgid, setfsuid: credentials(7)); the others keep their
// own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace fermata {

/// User, group and supplementary groups, as setgroups(2) takes them.
struct Credentials {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::string name;  ///< login name; the number where the user has none
  std::string home;  ///< home directory, "/" where the user has none

  bool operator==(const Credentials&) const = default;
};

/// Credentials of `user`: a login name or a number. kNotFound when there is no such user.
Result<Credentials> credentials_of(std::string_view user);
/// Credentials of the caller: its real user and group (a setuid `fermata` runs jobs as who called
/// it).
Result<Credentials> credentials_of_caller();

/// The path with each %u as the user's name, and each %% as one %: how one line of a config file
/// gives every user a folder.
std::string with_user_name(std::string_view path, std::string_view name);

/// While it lives, the calling thread opens, creates and checks files with `user`'s rights and
/// nothing more: capabilities that override file permissions are out of effect too. Other
/// capabilities stay. End it on the thread that entered it.
class FsCredentialScope {
 public:
  /// Fails with kPermission when the thread may not take on `user`; then nothing has changed.
  static Result<FsCredentialScope> enter(const Credentials& user);

  FsCredentialScope(FsCredentialScope&& other) noexcept;
  FsCredentialScope& operator=(FsCredentialScope&&) = delete;
  FsCredentialScope(const FsCredentialScope&) = delete;
  FsCredentialScope& operator=(const FsCredentialScope&) = delete;
  ~FsCredentialScope();

 private:
  /// What the thread had before.
  struct Before {
    std::vector<gid_t> groups;
    gid_t gid = 0;
    uid_t uid = 0;
    uint64_t effective = 0;  ///< capabilities
  };
  explicit FsCredentialScope(Before before);

  bool active_ = true;
  Before before_;
};

}  // namespace fermata
