#include "node-agent/pod/podinit/names_calls.h"

#include <pmix.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace fermata::pod {
namespace {

enum class Call : uint8_t { kPublish = 1, kLookup, kUnpublish, kUnpublishAll, kEnded };

/// libpmix's buffer of packed values.
class Packed {
 public:
  Packed() { PMIX_DATA_BUFFER_CONSTRUCT(&buffer_); }
  explicit Packed(const std::string& text) : Packed() {
    // The buffer frees what it holds.
    auto* copy = static_cast<char*>(std::malloc(text.size()));
    if (copy == nullptr) return;
    memcpy(copy, text.data(), text.size());
    buffer_.base_ptr = copy;
    buffer_.unpack_ptr = copy;
    buffer_.pack_ptr = copy + text.size();
    buffer_.bytes_allocated = text.size();
    buffer_.bytes_used = text.size();
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  ~Packed() { PMIX_DATA_BUFFER_DESTRUCT(&buffer_); }

  template <typename T>
  void add(const T* values, size_t count, pmix_data_type_t type) {
    // Packing reads only, though the interface does not say so.
    good_ = good_ && PMIx_Data_pack(nullptr, &buffer_, const_cast<T*>(values),
                                    static_cast<int32_t>(count), type) == PMIX_SUCCESS;
  }
  void add_count(size_t count) {
    const auto number = static_cast<uint32_t>(count);
    add(&number, 1, PMIX_UINT32);
  }
  template <typename T>
  bool take(T* values, size_t count, pmix_data_type_t type) {
    auto wanted = static_cast<int32_t>(count);
    good_ = good_ && PMIx_Data_unpack(nullptr, &buffer_, values, &wanted, type) == PMIX_SUCCESS &&
            wanted == static_cast<int32_t>(count);
    return good_;
  }
  /// How many values follow: no more than there are bytes.
  size_t take_count() {
    uint32_t number = 0;
    if (!take(&number, 1, PMIX_UINT32) || number > buffer_.bytes_used) return 0;
    return number;
  }
  bool good() const { return good_; }

  std::string text() const {
    return good_ ? std::string(buffer_.base_ptr, buffer_.bytes_used) : std::string();
  }

 private:
  pmix_data_buffer_t buffer_;
  bool good_ = true;
};

void begin(Packed& packed, Call call, const pmix_proc_t& source) {
  const auto kind = static_cast<uint8_t>(call);
  packed.add(&kind, 1, PMIX_UINT8);
  packed.add(&source, 1, PMIX_PROC);
}

void add_infos(Packed& packed, std::span<const pmix_info_t> infos) {
  packed.add_count(infos.size());
  if (!infos.empty()) packed.add(infos.data(), infos.size(), PMIX_INFO);
}

void add_keys(Packed& packed, char** keys) {
  size_t count = 0;
  while (keys[count] != nullptr) ++count;
  packed.add_count(count);
  if (count > 0) packed.add(keys, count, PMIX_STRING);
}

/// Owns infos and keys that were unpacked.
class Arguments {
 public:
  Arguments() = default;
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;
  ~Arguments() {
    for (pmix_info_t& info : infos_) PMIX_INFO_DESTRUCT(&info);
    for (char* key : keys_) std::free(key);
  }

  void take_infos(Packed& packed) {
    infos_.resize(packed.take_count());
    for (pmix_info_t& info : infos_) PMIX_INFO_CONSTRUCT(&info);
    if (!infos_.empty()) packed.take(infos_.data(), infos_.size(), PMIX_INFO);
  }
  void take_keys(Packed& packed) {
    const size_t count = packed.take_count();
    keys_.assign(count + 1, nullptr);
    if (count > 0) packed.take(keys_.data(), count, PMIX_STRING);
  }

  std::span<const pmix_info_t> infos() const { return infos_; }
  char** keys() { return keys_.data(); }

 private:
  std::vector<pmix_info_t> infos_;
  std::vector<char*> keys_;  ///< ends with a null
};

std::string outcome(pmix_status_t status, const pmix_pdata_t* data, size_t count) {
  Packed packed;
  packed.add(&status, 1, PMIX_STATUS);
  packed.add_count(count);
  if (count > 0) packed.add(data, count, PMIX_PDATA);
  return packed.text();
}

using Done = std::function<void(const std::string& outcome)>;

void on_found(pmix_status_t status, pmix_pdata_t data[], size_t count, void* callback_data) {
  const std::unique_ptr<Done> done(static_cast<Done*>(callback_data));
  (*done)(outcome(status, data, count));
}

}  // namespace

std::string encode_publish(const pmix_proc_t& source, std::span<const pmix_info_t> infos) {
  Packed packed;
  begin(packed, Call::kPublish, source);
  add_infos(packed, infos);
  return packed.text();
}

std::string encode_lookup(const pmix_proc_t& reader, char** keys,
                          std::span<const pmix_info_t> directives) {
  Packed packed;
  begin(packed, Call::kLookup, reader);
  add_infos(packed, directives);
  add_keys(packed, keys);
  return packed.text();
}

std::string encode_unpublish(const pmix_proc_t& source, char** keys) {
  Packed packed;
  begin(packed, keys == nullptr ? Call::kUnpublishAll : Call::kUnpublish, source);
  if (keys != nullptr) add_keys(packed, keys);
  return packed.text();
}

std::string encode_process_ended(const pmix_proc_t& source) {
  Packed packed;
  begin(packed, Call::kEnded, source);
  return packed.text();
}

void carry_out(Publisher& publisher, const std::string& call, Done done) {
  Packed packed(call);
  uint8_t kind = 0;
  pmix_proc_t source;
  PMIX_PROC_CONSTRUCT(&source);
  Arguments arguments;
  packed.take(&kind, 1, PMIX_UINT8);
  packed.take(&source, 1, PMIX_PROC);
  pmix_status_t status = PMIX_ERR_BAD_PARAM;
  switch (static_cast<Call>(kind)) {
    case Call::kPublish:
      arguments.take_infos(packed);
      if (packed.good()) status = publisher.publish(source, arguments.infos());
      break;
    case Call::kLookup:
      arguments.take_infos(packed);
      arguments.take_keys(packed);
      if (!packed.good()) break;
      publisher.lookup(source, arguments.keys(), arguments.infos(), on_found,
                       std::make_unique<Done>(std::move(done)).release());
      return;
    case Call::kUnpublish:
      arguments.take_keys(packed);
      if (packed.good()) status = publisher.unpublish(source, arguments.keys());
      break;
    case Call::kUnpublishAll:
      if (packed.good()) status = publisher.unpublish(source, nullptr);
      break;
    case Call::kEnded:
      if (!packed.good()) break;
      publisher.process_ended(source);
      status = PMIX_SUCCESS;
      break;
  }
  done(outcome(status, nullptr, 0));
}

NamesOutcome::NamesOutcome(const std::string& text) {
  if (text.empty()) return;
  Packed packed(text);
  pmix_status_t status = PMIX_ERR_NOT_FOUND;
  if (!packed.take(&status, 1, PMIX_STATUS)) return;
  data_.resize(packed.take_count());
  for (pmix_pdata_t& data : data_) PMIX_PDATA_CONSTRUCT(&data);
  if (!data_.empty()) packed.take(data_.data(), data_.size(), PMIX_PDATA);
  if (packed.good()) status_ = status;
}

NamesOutcome::~NamesOutcome() {
  for (pmix_pdata_t& data : data_) PMIX_PDATA_DESTRUCT(&data);
}

}  // namespace fermata::pod
