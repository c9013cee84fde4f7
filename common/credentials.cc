#include "common/credentials.h"

#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace fermata {
namespace {

// glibc's setgroups() changes every thread of the process; the system call changes the caller
// alone.
bool set_thread_groups(const std::vector<gid_t>& groups) {
  return ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0;
}

// setfsuid(2) and setfsgid(2) report no error: they return the previous id, and an invalid id
// changes nothing, which is the way to read the present one.
uid_t thread_fsuid() { return static_cast<uid_t>(::syscall(SYS_setfsuid, -1)); }
gid_t thread_fsgid() { return static_cast<gid_t>(::syscall(SYS_setfsgid, -1)); }

bool set_thread_fsuid(uid_t uid) {
  ::syscall(SYS_setfsuid, uid);
  return thread_fsuid() == uid;
}

bool set_thread_fsgid(gid_t gid) {
  ::syscall(SYS_setfsgid, gid);
  return thread_fsgid() == gid;
}

/// The capabilities that setfsuid(2) takes and gives: those that override the permissions of files.
constexpr uint64_t kFileCapabilities = (1ULL << CAP_CHOWN) | (1ULL << CAP_DAC_OVERRIDE) |
                                       (1ULL << CAP_DAC_READ_SEARCH) | (1ULL << CAP_FOWNER) |
                                       (1ULL << CAP_FSETID) | (1ULL << CAP_LINUX_IMMUTABLE) |
                                       (1ULL << CAP_MKNOD) | (1ULL << CAP_MAC_OVERRIDE);

using CapabilityWords = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

/// capget(2) of the calling thread.
bool read_thread_capabilities(CapabilityWords& words) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return ::syscall(SYS_capget, &header, words.data()) == 0;
}

Result<uint64_t> thread_effective() {
  CapabilityWords words{};
  if (!read_thread_capabilities(words)) {
    return errno_failure(errno, "cannot read the capabilities of this thread");
  }
  return uint64_t{words[1].effective} << 32 | words[0].effective;
}

/// Sets the effective set alone; it may hold what the permitted set holds.
bool set_thread_effective(uint64_t effective) {
  CapabilityWords words{};
  if (!read_thread_capabilities(words)) return false;
  words[0].effective = static_cast<uint32_t>(effective);
  words[1].effective = static_cast<uint32_t>(effective >> 32);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  return ::syscall(SYS_capset, &header, words.data()) == 0;
}

/// Whether two lists name the same groups; their order means nothing, and the kernel keeps its own.
bool same_groups(std::vector<gid_t> one, std::vector<gid_t> other) {
  std::ranges::sort(one);
  std::ranges::sort(other);
  return one == other;
}

Result<std::vector<gid_t>> thread_groups() {
  const int count = ::getgroups(0, nullptr);
  if (count < 0) return errno_failure(errno, "cannot read the groups of this process");
  std::vector<gid_t> groups(static_cast<size_t>(count));
  if (count > 0 && ::getgroups(count, groups.data()) < 0) {
    return errno_failure(errno, "cannot read the groups of this process");
  }
  return groups;
}

/// Runs getpwnam_r or getpwuid_r with a buffer that grows until it is large enough.
template <typename Lookup>
Result<Credentials> look_up(std::string_view user, Lookup lookup) {
  std::vector<char> buffer(1024);
  passwd entry{};
  passwd* found = nullptr;
  int error = 0;
  while ((error = lookup(&entry, buffer.data(), buffer.size(), &found)) == ERANGE) {
    buffer.resize(buffer.size() * 2);
  }
  if (found == nullptr) {
    // getpwnam_r(3): several errors, or none, stand for "not found".
    if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM) {
      return failure(Code::kNotFound, fmt::format("there is no user '{}'", user));
    }
    return errno_failure(error, fmt::format("cannot look up user '{}'", user));
  }
  Credentials result;
  result.uid = entry.pw_uid;
  result.gid = entry.pw_gid;
  result.name = entry.pw_name;
  result.home = entry.pw_dir != nullptr && *entry.pw_dir != '\0' ? entry.pw_dir : "/";
  int count = 32;
  result.groups.resize(static_cast<size_t>(count));
  while (::getgrouplist(entry.pw_name, entry.pw_gid, result.groups.data(), &count) < 0) {
    if (static_cast<size_t>(count) <= result.groups.size()) {
      count = static_cast<int>(result.groups.size() * 2);
    }
    result.groups.resize(static_cast<size_t>(count));
  }
  result.groups.resize(static_cast<size_t>(count));
  return result;
}

Result<Credentials> credentials_of_uid(uid_t uid, std::string_view shown) {
  return look_up(shown, [uid](passwd* entry, char* buffer, size_t size, passwd** found) {
    return ::getpwuid_r(uid, entry, buffer, size, found);
  });
}

}  // namespace

Result<Credentials> credentials_of(std::string_view user) {
  const std::string name(user);
  auto by_name = look_up(user, [&name](passwd* entry, char* buffer, size_t size, passwd** found) {
    return ::getpwnam_r(name.c_str(), entry, buffer, size, found);
  });
  if (by_name || by_name.error().code() != Code::kNotFound) return by_name;

  // As chown(1) has it: a name first, and what is no name may be a number.
  uid_t uid = 0;
  const auto [stop, error] = std::from_chars(user.data(), user.data() + user.size(), uid);
  if (user.empty() || error != std::errc{} || stop != user.data() + user.size()) return by_name;
  return credentials_of_uid(uid, user);
}

Result<Credentials> credentials_of_caller() {
  const uid_t uid = ::getuid();
  auto known = credentials_of_uid(uid, std::to_string(uid));
  if (!known && known.error().code() != Code::kNotFound) return known;
  Credentials result;
  if (known) {
    result = *std::move(known);
  } else {
    result.name = std::to_string(uid);
    result.home = "/";
  }
  // What the caller is now (newgrp, a batch system's setgroups) counts, not what the user database
  // says.
  result.uid = uid;
  result.gid = ::getgid();
  FERMATA_ASSIGN(result.groups, thread_groups());
  return result;
}

// Order matters. setgroups and setfsgid need CAP_SETGID, setfsuid CAP_SETUID; none of the three
// goes with a change of fsuid, so the way back is always open. Leaving fsuid 0 takes the
// capabilities over files out of the effective set by itself (capabilities(7), "Effect of user ID
// changes on capabilities"), but not where the thread had them under another id or with
// SECBIT_NO_SETUID_FIXUP; so they are taken out by hand, and the set is put back as it was.
std::string with_user_name(std::string_view path, std::string_view name) {
  std::string out;
  for (size_t i = 0; i < path.size(); ++i) {
    const char next = path[i] == '%' && i + 1 < path.size() ? path[i + 1] : '\0';
    if (next == 'u') out += name;
    if (next == '%') out += '%';
    if (next == 'u' || next == '%') {
      ++i;
    } else {
      out += path[i];
    }
  }
  return out;
}

Result<FsCredentialScope> FsCredentialScope::enter(const Credentials& user) {
  Before before;
  FERMATA_ASSIGN(before.groups, thread_groups());
  FERMATA_ASSIGN(before.effective, thread_effective());
  before.gid = thread_fsgid();
  before.uid = thread_fsuid();
  const uint64_t effective = before.effective;
  const bool same_ids =
      before.uid == user.uid && before.gid == user.gid && same_groups(before.groups, user.groups);
  const auto refused = [&user](int error) {
    return failure(Code::kPermission,
                   fmt::format("cannot use files as user {}: CAP_SETUID and CAP_SETGID are "
                               "needed; run as root or as that user",
                               user.name.empty() ? std::to_string(user.uid) : user.name),
                   error);
  };

  if (!same_ids && !set_thread_groups(user.groups)) return refused(errno);
  // From here on the scope's destructor undoes what was done.
  FsCredentialScope scope(std::move(before));
  if (!same_ids && (!set_thread_fsgid(user.gid) || !set_thread_fsuid(user.uid))) {
    return refused(EPERM);
  }
  if (user.uid != 0 && (effective & kFileCapabilities) != 0 &&
      !set_thread_effective(effective & ~kFileCapabilities)) {
    return refused(errno);
  }
  scope.active_ = !same_ids || user.uid != 0;
  return scope;
}

FsCredentialScope::FsCredentialScope(Before before) : before_(std::move(before)) {}

FsCredentialScope::FsCredentialScope(FsCredentialScope&& other) noexcept
    : active_(std::exchange(other.active_, false)), before_(std::move(other.before_)) {}

FsCredentialScope::~FsCredentialScope() {
  if (!active_) return;
  set_thread_fsuid(before_.uid);
  set_thread_fsgid(before_.gid);
  // Without CAP_SETGID nothing was changed above, and this fails without harm.
  set_thread_groups(before_.groups);
  set_thread_effective(before_.effective);
}

}  // namespace fermata
