#include "common/status.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

namespace fermata {
namespace {

struct CodeRow {
  Code code;
  std::string_view name;
  int exit_code;
  int grpc_code;  // grpc::StatusCode
};

// Exit codes stay below 64 so that they are told from the 125-127 and 128+N of a shell.
constexpr std::array<CodeRow, 13> kCodes{{
    {Code::kOk, "ok", 0, 0},                     // OK
    {Code::kInternal, "internal error", 1, 13},  // INTERNAL
    {Code::kUsage, "usage", 2, 3},               // INVALID_ARGUMENT
    {Code::kPermission, "not permitted", 3, 7},  // PERMISSION_DENIED
    {Code::kNotFound, "not found", 4, 5},        // NOT_FOUND
    {Code::kCannotHold, "cannot hold", 5, 9},    // FAILED_PRECONDITION
    {Code::kStorage, "storage", 6, 8},           // RESOURCE_EXHAUSTED
    {Code::kDamaged, "damaged", 7, 15},          // DATA_LOSS
    {Code::kUnsupported, "unsupported", 8, 12},  // UNIMPLEMENTED
    {Code::kBusy, "busy", 9, 10},                // ABORTED
    {Code::kTimeout, "timed out", 10, 4},        // DEADLINE_EXCEEDED
    {Code::kGone, "gone", 11, 14},               // UNAVAILABLE
    {Code::kConflict, "conflict", 12, 6},        // ALREADY_EXISTS
}};

const CodeRow& row_of(Code code) {
  for (const CodeRow& row : kCodes) {
    if (row.code == code) return row;
  }
  return kCodes[1];
}

Code code_of_errno(int err) {
  switch (err) {
    case EPERM:
    case EACCES:
      return Code::kPermission;
    case ENOENT:
      return Code::kNotFound;
    case ESRCH:
      return Code::kGone;
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EIO:
      return Code::kStorage;
    case EADDRINUSE:
    case EEXIST:
      return Code::kConflict;
    case EBUSY:
      return Code::kBusy;
    case ETIMEDOUT:
      return Code::kTimeout;
    case ENOSYS:
      return Code::kUnsupported;
    default:
      return Code::kInternal;
  }
}

}  // namespace

std::string_view code_name(Code code) { return row_of(code).name; }

int exit_code_of(Code code) { return row_of(code).exit_code; }

int grpc_code_of(Code code) { return row_of(code).grpc_code; }

Code code_of_grpc(int grpc_code) {
  for (const CodeRow& row : kCodes) {
    if (row.grpc_code == grpc_code) return row.code;
  }
  return Code::kInternal;
}

Status Status::within(std::string_view where) const {
  if (is_ok()) return *this;
  return {code_, fmt::format("{}: {}", where, message_), errno_};
}

Status errno_status(int err, std::string_view what) {
  return errno_status(code_of_errno(err), err, what);
}

Status errno_status(Code code, int err, std::string_view what) {
  std::array<char, 128> buffer{};
  const char* text = strerror_r(err, buffer.data(), buffer.size());
  return {code, fmt::format("{}: {}", what, text), err};
}

}  // namespace fermata
