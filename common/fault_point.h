// Named places where a test can make a program fail. `FAULT_POINT("commit.rename");` in a function
// that returns Status or Result<T>. Compiled in only with -DFERMATA_FAULT_POINTS (presets dev,
// asan, tsan); else it is nothing. The environment chooses:
// FERMATA_FAULT=NAME:ACTION[,NAME:ACTION...], ACTION being
//   kill      the process dies of SIGKILL at that place
//   error     the function returns kInternal, "fault point NAME"
//   sleep=MS  the thread sleeps that many milliseconds and goes on
// Any thread. The variable is read at every point, so that a test may change it.
#pragma once

#include <string_view>
#include <utility>

#include "common/status.h"

namespace fermata {

/// Does what FERMATA_FAULT asks for at the point `name`. Not ok: the function at the point shall
/// fail with it.
Status reach_fault_point(std::string_view name);

/// A failure that a function returning Status and one returning Result<T> can both return.
class FaultFailure {
 public:
  explicit FaultFailure(Status status) : status_(std::move(status)) {}
  // NOLINTNEXTLINE(google-explicit-constructor): conversion is its purpose.
  operator Status() && { return std::move(status_); }
  template <typename T>
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator Result<T>() && {
    return Failure(std::move(status_));
  }

 private:
  Status status_;
};

}  // namespace fermata

#ifdef FERMATA_FAULT_POINTS
#define FAULT_POINT(name)                                                       \
  do {                                                                          \
    if (::fermata::Status fault_ = ::fermata::reach_fault_point(name); !fault_) \
      return ::fermata::FaultFailure(std::move(fault_));                        \
  } while (0)
#else
#define FAULT_POINT(name) \
  do {                    \
  } while (0)
#endif
