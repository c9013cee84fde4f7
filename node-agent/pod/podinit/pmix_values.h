// Owners of libpmix's C values: lists of pmix_info_t that are built up, passed, and freed. Any
// thread.
#pragma once

#include <pmix_common.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fermata::pod {

class InfoList {
 public:
  InfoList() = default;
  InfoList(InfoList&& other) noexcept : items_(std::exchange(other.items_, {})) {}
  InfoList& operator=(InfoList&&) = delete;
  InfoList(const InfoList&) = delete;
  InfoList& operator=(const InfoList&) = delete;
  ~InfoList();

  void add(const char* key, const std::string& value);
  void add(const char* key, const char* value) { add(key, std::string(value)); }
  void add_flag(const char* key, bool value);
  void add_u32(const char* key, uint32_t value);
  void add_int(const char* key, int value);
  void add_u16(const char* key, uint16_t value);
  void add_rank(const char* key, pmix_rank_t value);
  /// A string of type PMIX_REGEX, as PMIx_generate_regex() makes it (it may hold NULs behind its
  /// first).
  void add_regex(const char* key, const char* value);
  /// An array of infos as one value.
  void add_array(const char* key, InfoList&& values);
  /// A copy of `value`.
  void add_value(const char* key, const pmix_value_t& value);

  pmix_info_t* data() { return items_.data(); }
  size_t size() const { return items_.size(); }
  /// Gives the elements up to libpmix in an array of its own allocation (freed by PMIX_INFO_FREE).
  pmix_info_t* release();

 private:
  void load(const char* key, const void* value, pmix_data_type_t type);
  std::vector<pmix_info_t> items_;
};

std::string_view key_of(const pmix_info_t& info);
/// The first info with this key.
const pmix_info_t* find_info(std::span<const pmix_info_t> infos, const char* key);
/// The value as an integer, for the integer types that directives come in.
std::optional<int64_t> integer_of(const pmix_value_t& value);
/// A flag is set when it has no value, or the value true.
bool flag_of(const pmix_value_t& value);

}  // namespace fermata::pod
