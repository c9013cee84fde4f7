#include "node-agent/engine/unix_name.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstddef>
#include <span>

namespace fermata::engine {
namespace {

constexpr size_t kPathStart = offsetof(sockaddr_un, sun_path);
constexpr uint64_t kHere = static_cast<uint64_t>(AT_FDCWD);
constexpr size_t kSecondPath = 8192;  // offsets in the argument area
constexpr size_t kStat = 16384;

// While it lives the process stands in the directory of a relative name.
class StandingIn {
 public:
  static Result<StandingIn> enter(Remote& process, const UnixName& name) {
    StandingIn here(process);
    if (name.is_abstract() || name.path().starts_with('/') || name.directory.empty()) return here;
    FERMATA_ASSIGN(const uint64_t dot, process.put_string("."));
    FERMATA_ASSIGN(here.back_, process.call("open of .", SYS_openat,
                                            {kHere, dot, O_PATH | O_DIRECTORY | O_CLOEXEC, 0}));
    FERMATA_ASSIGN(const uint64_t directory, process.put_string(name.directory));
    FERMATA_ASSIGN(
        [[maybe_unused]] const long moved,
        process.call(fmt::format("chdir to '{}'", name.directory), SYS_chdir, {directory}));
    return here;
  }
  StandingIn(StandingIn&& other) noexcept
      : process_(other.process_), back_(std::exchange(other.back_, -1)) {}
  StandingIn& operator=(StandingIn&&) = delete;
  ~StandingIn() {
    if (back_ < 0) return;
    (void)process_->call("fchdir", SYS_fchdir, {static_cast<uint64_t>(back_)});
    (void)process_->call("close", SYS_close, {static_cast<uint64_t>(back_)});
  }

 private:
  explicit StandingIn(Remote& process) : process_(&process) {}
  Remote* process_;
  long back_ = -1;
};

Result<uint64_t> put_address(Remote& process, const UnixName& name) {
  FERMATA_TRY_RESULT(
      process.write_memory(process.argument_address(), std::as_bytes(std::span(name.address))));
  return process.argument_address();
}

// Type and mode of what is at the path; 0 when nothing is.
Result<uint32_t> mode_at(Remote& process, const UnixName& name) {
  FERMATA_ASSIGN(const uint64_t path, process.put_string(name.path()));
  const uint64_t place = process.argument_address() + kStat;
  const auto found = process.call(fmt::format("stat of '{}'", name.path()), SYS_newfstatat,
                                  {kHere, path, place, AT_SYMLINK_NOFOLLOW});
  if (!found) {
    if (found.error().error_number() == ENOENT) return 0U;
    return Failure(found.error());
  }
  struct stat status {};
  FERMATA_TRY_RESULT(process.get(place, status));
  return status.st_mode;
}

Status rename_in_pod(Remote& process, std::string_view from, std::string_view to) {
  FERMATA_ASSIGN_STATUS(const uint64_t first, process.put_string(from));
  FERMATA_ASSIGN_STATUS(const uint64_t second, process.put_string(to, kSecondPath));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long renamed,
                        process.call(fmt::format("moving '{}' to '{}'", from, to), SYS_renameat,
                                     {kHere, first, kHere, second}));
  return Status::ok();
}

Status unlink_in_pod(Remote& process, std::string_view path) {
  FERMATA_ASSIGN_STATUS(const uint64_t address, process.put_string(path));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long gone,
      process.call(fmt::format("unlinking '{}'", path), SYS_unlinkat, {kHere, address, 0}));
  return Status::ok();
}

Status bind_here(Remote& process, int fd, const UnixName& name) {
  FERMATA_ASSIGN_STATUS(const uint64_t address, put_address(process, name));
  const auto bound = process.call(fmt::format("bind to '{}'", name.text()), SYS_bind,
                                  {static_cast<uint64_t>(fd), address, name.address.size()});
  if (bound) return Status::ok();
  if (bound.error().error_number() == EADDRINUSE) {
    return {Code::kConflict,
            fmt::format("the UNIX socket name '{}' is in use by another process; end that, or "
                        "restart the job on another host",
                        name.text()),
            EADDRINUSE};
  }
  return bound.error();
}

Status set_mode(Remote& process, const UnixName& name, uint32_t mode) {
  FERMATA_ASSIGN_STATUS(const uint64_t path, process.put_string(name.path()));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long done,
                        process.call(fmt::format("chmod of '{}'", name.path()), SYS_fchmodat,
                                     {kHere, path, mode & 07777U}));
  return Status::ok();
}

}  // namespace

bool UnixName::is_abstract() const {
  return address.size() > kPathStart && address[kPathStart] == '\0';
}

std::string_view UnixName::path() const {
  if (empty() || is_abstract()) return {};
  const std::string_view text = std::string_view(address).substr(kPathStart);
  return text.substr(0, text.find('\0'));
}

std::string UnixName::text() const {
  if (empty()) return "no name";
  return is_abstract() ? "@" + address.substr(kPathStart + 1) : std::string(path());
}

UnixName name_of(const image::UnixSocket& socket) { return {socket.name(), socket.directory()}; }

Status check_name(const UnixName& name) {
  sa_family_t family = 0;
  if (name.address.size() >= sizeof family)
    name.address.copy(reinterpret_cast<char*>(&family), sizeof family);
  if (name.empty() || (name.address.size() > kPathStart &&
                       name.address.size() <= sizeof(sockaddr_un) + 1 && family == AF_UNIX)) {
    return Status::ok();
  }
  return {Code::kDamaged,
          fmt::format("{} bytes that are no name of a UNIX socket", name.address.size())};
}

Status bind_name(Remote& process, int fd, const UnixName& name, uint32_t mode, bool keep) {
  FERMATA_TRY(check_name(name));
  if (name.is_abstract()) return bind_here(process, fd, name);
  FERMATA_ASSIGN_STATUS(const StandingIn here, StandingIn::enter(process, name));
  FERMATA_ASSIGN_STATUS(const uint32_t found, mode_at(process, name));
  const std::string path(name.path());
  const std::string aside = path + ".fermata-restart";
  if (found != 0) {
    if (keep && !S_ISSOCK(found)) {
      return {
          Code::kConflict,
          fmt::format("'{}' was a socket at the checkpoint and is another kind of file now; move "
                      "it away",
                      path)};
    }
    FERMATA_TRY(rename_in_pod(process, path, aside));
  }
  Status status = bind_here(process, fd, name);
  if (status && keep) status = set_mode(process, name, mode);
  if (status && !keep) status = unlink_in_pod(process, path);
  if (found == 0) return status;
  if (status && keep) return unlink_in_pod(process, aside);
  const Status moved_back = rename_in_pod(process, aside, path);
  return status ? moved_back : status;
}

Status connect_name(Remote& process, int fd, const UnixName& name) {
  FERMATA_TRY(check_name(name));
  FERMATA_ASSIGN_STATUS(const StandingIn here, StandingIn::enter(process, name));
  FERMATA_ASSIGN_STATUS(const uint64_t address, put_address(process, name));
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long connected,
      process.call(fmt::format("connecting to '{}' again", name.text()), SYS_connect,
                   {static_cast<uint64_t>(fd), address, name.address.size()}));
  return Status::ok();
}

}  // namespace fermata::engine
