#include "node-agent/pod/podinit/pmix_values.h"

#include <pmix.h>

#include <cstring>
#include <utility>

namespace fermata::pod {

InfoList::~InfoList() {
  for (pmix_info_t& item : items_) PMIX_INFO_DESTRUCT(&item);
}

void InfoList::load(const char* key, const void* value, pmix_data_type_t type) {
  pmix_info_t item;
  PMIX_INFO_CONSTRUCT(&item);
  PMIX_INFO_LOAD(&item, key, value, type);
  items_.push_back(item);
}

void InfoList::add(const char* key, const std::string& value) {
  load(key, value.c_str(), PMIX_STRING);
}
void InfoList::add_flag(const char* key, bool value) { load(key, &value, PMIX_BOOL); }
void InfoList::add_u32(const char* key, uint32_t value) { load(key, &value, PMIX_UINT32); }
void InfoList::add_int(const char* key, int value) { load(key, &value, PMIX_INT); }
void InfoList::add_u16(const char* key, uint16_t value) { load(key, &value, PMIX_UINT16); }
void InfoList::add_rank(const char* key, pmix_rank_t value) { load(key, &value, PMIX_PROC_RANK); }
void InfoList::add_regex(const char* key, const char* value) { load(key, value, PMIX_REGEX); }

void InfoList::add_array(const char* key, InfoList&& values) {
  pmix_info_t item;
  PMIX_INFO_CONSTRUCT(&item);
  PMIX_LOAD_KEY(item.key, key);
  item.value.type = PMIX_DATA_ARRAY;
  PMIX_DATA_ARRAY_CREATE(item.value.data.darray, 0, PMIX_INFO);
  const size_t count = values.items_.size();
  item.value.data.darray->array = values.release();
  item.value.data.darray->size = item.value.data.darray->array == nullptr ? 0 : count;
  items_.push_back(item);
}

void InfoList::add_value(const char* key, const pmix_value_t& value) {
  pmix_info_t item;
  PMIX_INFO_CONSTRUCT(&item);
  PMIX_LOAD_KEY(item.key, key);
  if (PMIx_Value_xfer(&item.value, &value) != PMIX_SUCCESS) item.value.type = PMIX_UNDEF;
  items_.push_back(item);
}

pmix_info_t* InfoList::release() {
  if (items_.empty()) return nullptr;
  pmix_info_t* array = nullptr;
  const size_t count = items_.size();
  PMIX_INFO_CREATE(array, count);
  if (array == nullptr) return nullptr;
  for (size_t i = 0; i < items_.size(); ++i) array[i] = items_[i];
  items_.clear();
  return array;
}

std::string_view key_of(const pmix_info_t& info) {
  return {info.key, strnlen(info.key, sizeof info.key)};
}

const pmix_info_t* find_info(std::span<const pmix_info_t> infos, const char* key) {
  for (const pmix_info_t& info : infos) {
    if (key_of(info) == key) return &info;
  }
  return nullptr;
}

std::optional<int64_t> integer_of(const pmix_value_t& value) {
  switch (value.type) {
    case PMIX_INT:
      return value.data.integer;
    case PMIX_INT32:
      return value.data.int32;
    case PMIX_INT64:
      return value.data.int64;
    case PMIX_UINT:
      return value.data.uint;
    case PMIX_UINT8:
      return value.data.uint8;
    case PMIX_UINT16:
      return value.data.uint16;
    case PMIX_UINT32:
      return value.data.uint32;
    case PMIX_DATA_RANGE:
      return value.data.range;
    case PMIX_PERSIST:
      return value.data.persist;
    case PMIX_STATUS:
      return value.data.status;
    default:
      return std::nullopt;
  }
}

bool flag_of(const pmix_value_t& value) {
  return value.type == PMIX_UNDEF || (value.type == PMIX_BOOL && value.data.flag);
}

}  // namespace fermata::pod
