// Data that ranks publish for each other by name (MPI_Publish_name, PMIx_Publish), kept in memory
// and so captured with podinit. Lookups may wait for what is not there yet. Any thread; callbacks
// are called by the executor, under no lock of ours.
#pragma once

#include <pmix_server.h>

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fermata::pod {

class Publisher {
 public:
  using Clock = std::chrono::steady_clock;

  /// Has a call made later, on a thread that is not inside of an upcall of libpmix.
  using Executor = std::function<void(std::function<void()>)>;

  explicit Publisher(Executor executor) : executor_(std::move(executor)) {}
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;
  ~Publisher();

  /// PMIX_ERR_DUPLICATE_KEY when a key is published already: then nothing of `infos` is kept.
  pmix_status_t publish(const pmix_proc_t& source, std::span<const pmix_info_t> infos);

  /// Answers at once, or when what PMIX_WAIT asks for has come, or when PMIX_TIMEOUT is over.
  void lookup(const pmix_proc_t& reader, char** keys, std::span<const pmix_info_t> directives,
              pmix_lookup_cbfunc_t callback, void* callback_data);

  /// Removes `keys` of this publisher; all of its keys when null.
  pmix_status_t unpublish(const pmix_proc_t& source, char** keys);

  /// Forgets what was to be kept only as long as this process.
  void process_ended(const pmix_proc_t& source);

  /// When expire() is to be called next.
  std::optional<Clock::time_point> next_deadline();
  void expire(Clock::time_point now);

 private:
  struct Entry {
    pmix_proc_t source;
    pmix_value_t value;
    pmix_data_range_t range;
    pmix_persistence_t persistence;
  };
  struct Lookup {
    pmix_proc_t reader;
    std::vector<std::string> keys;
    size_t wanted = 0;  ///< how many keys have to be there
    std::optional<Clock::time_point> deadline;
    pmix_lookup_cbfunc_t callback;
    void* callback_data;
  };
  /// An answer made under the lock and given without it.
  struct Answer {
    pmix_status_t status;
    std::vector<pmix_pdata_t> data;
    pmix_lookup_cbfunc_t callback;
    void* callback_data;
  };

  bool visible(const Entry& entry, const pmix_proc_t& reader) const;
  size_t count_found(const Lookup& lookup) const;
  Answer answer(const Lookup& lookup, pmix_status_t if_missing);
  void give(std::vector<Answer> answers);

  Executor executor_;
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  std::list<Lookup> waiting_;
};

}  // namespace fermata::pod
