#include "node-agent/pod/podinit/publish.h"

#include <pmix.h>

#include <algorithm>
#include <cstring>

#include "node-agent/pod/podinit/pmix_values.h"

namespace fermata::pod {
namespace {

bool same_process(const pmix_proc_t& a, const pmix_proc_t& b) {
  return a.rank == b.rank && strncmp(a.nspace, b.nspace, sizeof a.nspace) == 0;
}

/// Infos of a publish call that say how to keep the data and are not data themselves.
bool is_directive(const pmix_info_t& info) {
  for (const char* key : {PMIX_RANGE, PMIX_PERSISTENCE, PMIX_USERID, PMIX_GRPID, PMIX_TIMEOUT}) {
    if (key_of(info) == key) return true;
  }
  return false;
}

std::optional<int64_t> directive(std::span<const pmix_info_t> infos, const char* key) {
  const pmix_info_t* info = find_info(infos, key);
  return info == nullptr ? std::nullopt : integer_of(info->value);
}

}  // namespace

Publisher::~Publisher() {
  for (auto& [key, entry] : entries_) PMIX_VALUE_DESTRUCT(&entry.value);
}

bool Publisher::visible(const Entry& entry, const pmix_proc_t& reader) const {
  // All readers are ranks of the one job, so every wider range includes them; PMIX_RANGE_RM is for
  // hosts.
  if (entry.range == PMIX_RANGE_RM) return false;
  return entry.range != PMIX_RANGE_PROC_LOCAL || same_process(entry.source, reader);
}

size_t Publisher::count_found(const Lookup& lookup) const {
  return static_cast<size_t>(
      std::count_if(lookup.keys.begin(), lookup.keys.end(), [&](const std::string& key) {
        const auto found = entries_.find(key);
        return found != entries_.end() && visible(found->second, lookup.reader);
      }));
}

Publisher::Answer Publisher::answer(const Lookup& lookup, pmix_status_t if_missing) {
  Answer result{if_missing, {}, lookup.callback, lookup.callback_data};
  for (const std::string& key : lookup.keys) {
    const auto found = entries_.find(key);
    if (found == entries_.end() || !visible(found->second, lookup.reader)) continue;
    pmix_pdata_t data;
    PMIX_PDATA_CONSTRUCT(&data);
    data.proc = found->second.source;
    PMIX_LOAD_KEY(data.key, key.c_str());
    if (PMIx_Value_xfer(&data.value, &found->second.value) != PMIX_SUCCESS) continue;
    result.data.push_back(data);
    if (found->second.persistence == PMIX_PERSIST_FIRST_READ) {
      PMIX_VALUE_DESTRUCT(&found->second.value);
      entries_.erase(found);
    }
  }
  if (result.data.size() == lookup.keys.size()) {
    result.status = PMIX_SUCCESS;
  } else if (!result.data.empty() && if_missing == PMIX_ERR_NOT_FOUND) {
    result.status = PMIX_ERR_PARTIAL_SUCCESS;
  }
  return result;
}

void Publisher::give(std::vector<Answer> answers) {
  for (Answer& answer : answers) {
    executor_([item = std::move(answer)]() mutable {
      // libpmix copies the data before it returns.
      item.callback(item.status, item.data.data(), item.data.size(), item.callback_data);
      for (pmix_pdata_t& data : item.data) PMIX_PDATA_DESTRUCT(&data);
    });
  }
}

pmix_status_t Publisher::publish(const pmix_proc_t& source, std::span<const pmix_info_t> infos) {
  const auto range = directive(infos, PMIX_RANGE).value_or(PMIX_RANGE_SESSION);
  const auto persistence = directive(infos, PMIX_PERSISTENCE).value_or(PMIX_PERSIST_APP);
  if (range == PMIX_RANGE_CUSTOM) return PMIX_ERR_NOT_SUPPORTED;
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    for (const pmix_info_t& info : infos) {
      if (!is_directive(info) && entries_.contains(std::string(key_of(info)))) {
        return PMIX_ERR_DUPLICATE_KEY;
      }
    }
    for (const pmix_info_t& info : infos) {
      if (is_directive(info)) continue;
      Entry entry{source,
                  {},
                  static_cast<pmix_data_range_t>(range),
                  static_cast<pmix_persistence_t>(persistence)};
      PMIX_VALUE_CONSTRUCT(&entry.value);
      const pmix_status_t copied = PMIx_Value_xfer(&entry.value, &info.value);
      if (copied != PMIX_SUCCESS) return copied;
      entries_.emplace(std::string(key_of(info)), entry);
    }
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if (count_found(*it) < it->wanted) {
        ++it;
        continue;
      }
      answers.push_back(answer(*it, PMIX_SUCCESS));
      it = waiting_.erase(it);
    }
  }
  give(std::move(answers));
  return PMIX_SUCCESS;
}

void Publisher::lookup(const pmix_proc_t& reader, char** keys,
                       std::span<const pmix_info_t> directives, pmix_lookup_cbfunc_t callback,
                       void* callback_data) {
  Lookup request{reader, {}, 0, std::nullopt, callback, callback_data};
  for (char** key = keys; key != nullptr && *key != nullptr; ++key) request.keys.emplace_back(*key);
  const std::optional<int64_t> wait = directive(directives, PMIX_WAIT);
  const int64_t timeout = directive(directives, PMIX_TIMEOUT).value_or(0);
  if (timeout > 0) request.deadline = Clock::now() + std::chrono::seconds(timeout);
  // PMIX_WAIT of 0 means: all of them.
  request.wanted = wait.value_or(0) > 0 ? std::min(static_cast<size_t>(*wait), request.keys.size())
                                        : request.keys.size();
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    if (wait && count_found(request) < request.wanted) {
      waiting_.push_back(std::move(request));
    } else {
      answers.push_back(answer(request, wait ? PMIX_SUCCESS : PMIX_ERR_NOT_FOUND));
    }
  }
  give(std::move(answers));
}

pmix_status_t Publisher::unpublish(const pmix_proc_t& source, char** keys) {
  const std::lock_guard lock(mutex_);
  bool missing = false;
  const auto drop = [&](std::map<std::string, Entry>::iterator it) {
    PMIX_VALUE_DESTRUCT(&it->second.value);
    return entries_.erase(it);
  };
  if (keys == nullptr) {
    for (auto it = entries_.begin(); it != entries_.end();) {
      it = same_process(it->second.source, source) ? drop(it) : std::next(it);
    }
    return PMIX_SUCCESS;
  }
  for (char** key = keys; *key != nullptr; ++key) {
    const auto found = entries_.find(*key);
    if (found != entries_.end() && same_process(found->second.source, source)) {
      drop(found);
    } else {
      missing = true;
    }
  }
  return missing ? PMIX_ERR_NOT_FOUND : PMIX_SUCCESS;
}

void Publisher::process_ended(const pmix_proc_t& source) {
  const std::lock_guard lock(mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second.persistence == PMIX_PERSIST_PROC && same_process(it->second.source, source)) {
      PMIX_VALUE_DESTRUCT(&it->second.value);
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
  // Nobody reads the answer of a process that is gone, and libpmix has dropped its peer.
  waiting_.remove_if([&](const Lookup& lookup) { return same_process(lookup.reader, source); });
}

std::optional<Publisher::Clock::time_point> Publisher::next_deadline() {
  const std::lock_guard lock(mutex_);
  std::optional<Clock::time_point> next;
  for (const Lookup& lookup : waiting_) {
    if (lookup.deadline && (!next || *lookup.deadline < *next)) next = lookup.deadline;
  }
  return next;
}

void Publisher::expire(Clock::time_point now) {
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if (!it->deadline || *it->deadline > now) {
        ++it;
        continue;
      }
      answers.push_back(answer(*it, PMIX_ERR_TIMEOUT));
      it = waiting_.erase(it);
    }
  }
  give(std::move(answers));
}

}  // namespace fermata::pod
