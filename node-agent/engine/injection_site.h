// Where in a process calls are injected: the unused tail of its vDSO page and a mapping of ours.
//
// Tracer's thread only.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>

#include "common/status.h"

namespace fermata::engine {

class CaptureRemote;

/// Per process: where the code and the scratch mapping are. Shared by the process's threads.
class InjectionSite {
 public:
  /// `pid` is stopped. Finds the vDSO and room in it; kUnsupported when it has none.
  static Result<std::shared_ptr<InjectionSite>> find(pid_t pid);

  /// Whether an instruction pointer lies in our code: a predecessor died there.
  bool contains(uint64_t rip) const { return rip >= code_ && rip < code_ + code_size_; }

  uint64_t code() const { return code_; }
  uint64_t scratch() const { return scratch_; }
  static constexpr uint64_t kScratchSize = 65536;
  /// Marks the scratch mapping, so that one left by a dead agent is found and used again.
  static constexpr std::array<uint64_t, 2> kScratchMagic{0x6574616d72656600, 0x6863746172637300};
  /// Whether a map of the process is the scratch mapping (left behind by a dead agent, or ours).
  bool is_scratch(uint64_t start, uint64_t end) const {
    return start == scratch_ && end == scratch_ + kScratchSize;
  }
  /// Whether there was an AIO context when the process was stopped.
  bool saw_aio() const { return saw_aio_; }

 private:
  friend class CaptureRemote;
  uint64_t code_ = 0;
  uint64_t code_size_ = 0;
  uint64_t scratch_ = 0;
  bool code_written_ = false;
  bool saw_aio_ = false;
  CaptureRemote* makes_twin_ = nullptr;  ///< is in the code, which serves one thread at a time
};

}  // namespace fermata::engine
