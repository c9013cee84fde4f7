// What both ends of the control protocol agree on beside its messages. Plain values.
#pragma once

#include <string_view>

namespace fermata::wire {

/// Names of the methods, as gRPC has them and as credentials bind them.
inline constexpr std::string_view kAttach = "/fermata.wire.Coordinator/Attach";
inline constexpr std::string_view kRun = "/fermata.wire.Coordinator/Run";
inline constexpr std::string_view kWait = "/fermata.wire.Coordinator/Wait";
inline constexpr std::string_view kSignal = "/fermata.wire.Coordinator/Signal";
inline constexpr std::string_view kCheckpoint = "/fermata.wire.Coordinator/Checkpoint";
inline constexpr std::string_view kAble = "/fermata.wire.Coordinator/Able";
inline constexpr std::string_view kRestart = "/fermata.wire.Coordinator/Restart";
inline constexpr std::string_view kJobs = "/fermata.wire.Coordinator/Jobs";
inline constexpr std::string_view kNodes = "/fermata.wire.Coordinator/Nodes";
inline constexpr std::string_view kControl = "/fermata.wire.Coordinator/Control";
inline constexpr std::string_view kRequeue = "/fermata.wire.Coordinator/Requeue";
inline constexpr std::string_view kDrain = "/fermata.wire.Coordinator/Drain";

/// Largest message either end takes: environments of jobs, and what podinits exchange (some KB a
/// rank).
inline constexpr int kLargestMessage = 64 << 20;

}  // namespace fermata::wire
