// The machine code of injected calls: its entries, and the save area behind it. What it does stands
// beside it in injection_code.cc.
//
// Constants only: any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

extern "C" {
extern const std::byte fermata_inject_single[];
extern const std::byte fermata_inject_batch[];
extern const std::byte fermata_inject_twin[];
extern const std::byte fermata_inject_stopped[];
extern const std::byte fermata_inject_tail[];
extern const std::byte fermata_inject_tail_without_stack[];
extern const std::byte fermata_inject_save[];
extern const std::byte fermata_inject_end[];
}

namespace fermata::engine {

/// What the code's end loads: the state with which the thread's program goes on.
struct InjectionSave {
  uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t eflags;
  uint64_t mask;  ///< the program's own signal mask
  uint64_t rip;
  uint64_t vpid;  ///< tgkill(2)'s arguments, as the pod counts
  uint64_t vtid;
  uint64_t signal;
  uint64_t open;  ///< the mask that lets only `signal` through
  uint64_t tail;  ///< address of the tail
};

inline size_t injection_offset(const std::byte* label) {
  return static_cast<size_t>(label - fermata_inject_single);
}

/// Without the save area.
inline std::span<const std::byte> injection_code() {
  return {fermata_inject_single, injection_offset(fermata_inject_save)};
}

/// Bytes of the code and the save area.
inline size_t injection_size() { return injection_offset(fermata_inject_end); }

}  // namespace fermata::engine
