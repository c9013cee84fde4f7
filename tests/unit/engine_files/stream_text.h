// Long strings that tests send and compare.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace fermata::engine {

inline std::string pattern(size_t size, unsigned seed) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>((i * 31 + (i >> 8) + seed) & 0xff);
  return text;
}

/// Equality of long strings; says where they part instead of printing them.
inline ::testing::AssertionResult same(const std::string& got, const std::string& want) {
  if (got == want) return ::testing::AssertionSuccess();
  size_t at = 0;
  while (at < got.size() && at < want.size() && got[at] == want[at]) ++at;
  return ::testing::AssertionFailure()
         << got.size() << " bytes instead of " << want.size() << ", different from byte " << at;
}

}  // namespace fermata::engine
