// Errors: a code from one table, a sentence for a person, and the errno behind it where there is
// one. Plain values; any thread.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace fermata {

/// The one table of error codes. Each maps to one exit code (exit_code_of) and one gRPC code
/// (grpc_code_of).
enum class Code : int {
  kOk = 0,
  kInternal,     ///< a state that should not be: a bug of ours
  kUsage,        ///< the command line or a config value is wrong
  kPermission,   ///< the caller may not do this, or a capability is missing
  kNotFound,     ///< no such job, CRID, file or program
  kCannotHold,   ///< an object of the job cannot be captured; the sentence names it
  kStorage,      ///< the checkpoint folder cannot be used: full, read-only, missing
  kDamaged,      ///< an image or manifest is not what was written
  kUnsupported,  ///< a newer format, a missing CPU feature, a kernel that lacks a call
  kBusy,         ///< another request holds the job or the object
  kTimeout,      ///< a deadline passed
  kGone,         ///< a process or job ended while we worked on it
  kConflict,     ///< the place an object needs is taken (port, PID, path)
};

/// Name of a code, e.g. "cannot hold"; never empty.
std::string_view code_name(Code code);

/// Exit code of the `fermata` command for a failure of this code (docs/man lists them).
int exit_code_of(Code code);

/// Number of the gRPC status code (grpc::StatusCode) that carries a failure of this code; each is
/// another one, so that code_of_grpc() brings it back.
int grpc_code_of(Code code);
/// The code behind a gRPC status; kInternal where none of ours is.
Code code_of_grpc(int grpc_code);

/// A failure. Messages say what failed, on which object, and what the reader can do.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message, int err = 0)
      : code_(code), errno_(err), message_(std::move(message)) {}

  static Status ok() { return {}; }

  bool is_ok() const { return code_ == Code::kOk; }
  explicit operator bool() const { return is_ok(); }
  Code code() const { return code_; }
  /// errno of the failed system call, 0 where none is behind it.
  int error_number() const { return errno_; }
  const std::string& message() const { return message_; }

  /// The same failure with "where: " put before the sentence.
  Status within(std::string_view where) const;

 private:
  Code code_ = Code::kOk;
  int errno_ = 0;
  std::string message_;
};

template <typename T>
using Result = tl::expected<T, Status>;

using Failure = tl::unexpected<Status>;

/// A failure to return from a function of type Result<T>.
inline Failure failure(Code code, std::string message, int err = 0) {
  return Failure(Status(code, std::move(message), err));
}

/// A failure of a system call: "<what>: <strerror>". Takes errno by value so that it can be read
/// first.
Status errno_status(int err, std::string_view what);
/// As above, with a code other than the one derived from errno.
Status errno_status(Code code, int err, std::string_view what);
inline Failure errno_failure(int err, std::string_view what) {
  return Failure(errno_status(err, what));
}

}  // namespace fermata

/// Returns from a function of type Status when `expr` (a Status) failed.
#define FERMATA_TRY(expr)                                                         \
  do {                                                                            \
    if (::fermata::Status try_status_ = (expr); !try_status_) return try_status_; \
  } while (0)

/// Returns from a function of type Result<T> when `expr` (a Status) failed.
#define FERMATA_TRY_RESULT(expr)                              \
  do {                                                        \
    if (::fermata::Status try_status_ = (expr); !try_status_) \
      return ::fermata::Failure(std::move(try_status_));      \
  } while (0)

#define FERMATA_CONCAT_(a, b) a##b
#define FERMATA_CONCAT(a, b) FERMATA_CONCAT_(a, b)

// A declaration cannot stand in parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
/// `FERMATA_ASSIGN(auto x, expr);` in a function of type Result<T>: x = *expr, or returns its
/// failure.
#define FERMATA_ASSIGN(decl, expr) \
  FERMATA_ASSIGN_(FERMATA_CONCAT(assign_result_, __LINE__), decl, expr, ::fermata::Failure)
/// The same in a function of type Status.
#define FERMATA_ASSIGN_STATUS(decl, expr) \
  FERMATA_ASSIGN_(FERMATA_CONCAT(assign_result_, __LINE__), decl, expr, ::fermata::Status)
#define FERMATA_ASSIGN_(temp, decl, expr, wrap)      \
  auto temp = (expr);                                \
  if (!(temp)) return wrap(std::move(temp).error()); \
  decl = *std::move(temp)
// NOLINTEND(bugprone-macro-parentheses)
