// System calls in a stopped thread of a job. One thread of ours, the tracer, makes all calls of one
// pod.
//
// In a running job (Mode::kCapture) the code that makes a call ends by putting the program's
// registers and signal mask back by itself: when the tracer dies at any instruction, the program
// runs on unharmed. In a process under construction (Mode::kRebuild; the kernel kills it with its
// tracer) calls are made in batches.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::engine {

/// One call of a batch. `result` is what the kernel returned: a value, or -errno.
struct RemoteCall {
  long number = 0;
  std::array<uint64_t, 6> args{};
  long result = 0;
};

/// A stopped thread and its process's memory. Does not own the ptrace attachment.
class Remote {
 public:
  Remote() = default;
  Remote(const Remote&) = delete;
  Remote& operator=(const Remote&) = delete;
  virtual ~Remote() = default;

  /// Runs the calls in order in the thread. Fails only when the thread cannot be used any more
  /// (kGone); failures of the calls themselves are in their results.
  virtual Status run(std::span<RemoteCall> calls) = 0;

  /// One call. A result in [-4095, -1] becomes a failure with that errno, its sentence naming
  /// `what`.
  Result<long> call(std::string_view what, long number, std::array<uint64_t, 6> args = {});

  /// Address of a buffer of argument_size() bytes in the process, page-aligned, for the caller's
  /// use between two of its own calls.
  virtual uint64_t argument_address() const = 0;
  static constexpr size_t argument_size() { return 32768; }

  /// Where call `index` of a batch (of fewer than a hundred) has its argument `number` in the
  /// process while the batch runs: an earlier call may write it there. 0: such batches cannot be
  /// made.
  virtual uint64_t call_argument_address(size_t /*index*/, size_t /*number*/) const { return 0; }

  /// Host PID of the process (not of the thread).
  pid_t pid() const { return pid_; }

  /// Copies to and from the process's memory through /proc/PID/mem: read-only pages included.
  Status write_memory(uint64_t address, std::span<const std::byte> bytes);
  Status read_memory(uint64_t address, std::span<std::byte> bytes);
  template <typename T>
  Status put(uint64_t address, const T& value) {
    return write_memory(address, std::as_bytes(std::span(&value, 1)));
  }
  template <typename T>
  Status get(uint64_t address, T& value) {
    return read_memory(address, std::as_writable_bytes(std::span(&value, 1)));
  }
  /// Writes a path and its NUL at argument_address() + offset; returns the address.
  Result<uint64_t> put_string(std::string_view text, size_t offset = 0);

  /// A descriptor of our own for what the process has at `fd`: the same open file description.
  Result<UniqueFd> take_fd(int fd);
  /// Puts our `fd` into the process at number `want` (replacing what is there), by SCM_RIGHTS over
  /// a socket pair made in the process. `want` < 0: at the lowest free number. Returns the number.
  Result<int> give_fd(int fd, int want, bool close_on_exec);

 protected:
  /// Opens /proc/PID/mem and a pidfd.
  Status open_process(pid_t pid);

  pid_t pid_ = -1;
  UniqueFd memory_;
  UniqueFd pidfd_;
};

}  // namespace fermata::engine
