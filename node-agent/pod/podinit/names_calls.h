// Calls of the store of published names as text, for a step of several pods: they are made in one
// pod and carried out in the one that keeps the names, with libpmix's own packing. Any thread.
#pragma once

#include <pmix_server.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "node-agent/pod/podinit/publish.h"

namespace fermata::pod {

/// Empty when libpmix cannot pack one of the values.
std::string encode_publish(const pmix_proc_t& source, std::span<const pmix_info_t> infos);
std::string encode_lookup(const pmix_proc_t& reader, char** keys,
                          std::span<const pmix_info_t> directives);
/// `keys` null: all of this process.
std::string encode_unpublish(const pmix_proc_t& source, char** keys);
std::string encode_process_ended(const pmix_proc_t& source);

/// Carries out an encoded call and gives its encoded outcome: at once, or, for a lookup that waits,
/// when `publisher` answers.
void carry_out(Publisher& publisher, const std::string& call,
               std::function<void(const std::string& outcome)> done);

/// The outcome of a call; owns its data.
class NamesOutcome {
 public:
  /// PMIX_ERR_NOT_FOUND without data when `text` is not what carry_out() gives.
  explicit NamesOutcome(const std::string& text);
  NamesOutcome(const NamesOutcome&) = delete;
  NamesOutcome& operator=(const NamesOutcome&) = delete;
  ~NamesOutcome();

  pmix_status_t status() const { return status_; }
  std::vector<pmix_pdata_t>& data() { return data_; }

 private:
  pmix_status_t status_ = PMIX_ERR_NOT_FOUND;
  std::vector<pmix_pdata_t> data_;
};

}  // namespace fermata::pod
