#include "node-agent/bpf/bpf_words.h"

#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <array>
#include <cstdarg>
#include <cstdio>

#include "common/log.h"

namespace fermata {
namespace {

int keep_words(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) return 0;
  std::array<char, 4096> words{};
  const int length = vsnprintf(words.data(), words.size(), format, arguments);
  if (length > 0) log_debug(fmt::format("libbpf: {}", words.data()));
  return length;
}

}  // namespace

void keep_bpf_words() { libbpf_set_print(keep_words); }

}  // namespace fermata
