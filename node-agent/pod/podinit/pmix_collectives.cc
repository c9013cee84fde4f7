// Fences, and data of ranks that no fence has brought.
#include <fmt/format.h>
#include <pmix.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "node-agent/pod/podinit/pmix_callbacks.h"
#include "node-agent/pod/podinit/pmix_values.h"

namespace fermata::pod {
namespace {

/// Gives `data` to libpmix, which returns it to std::free.
void answer_modex(pmix_modex_cbfunc_t callback, void* callback_data, pmix_status_t status,
                  const std::string& data) {
  char* copy = nullptr;
  if (!data.empty()) {
    copy = static_cast<char*>(std::malloc(data.size()));
    if (copy == nullptr) {
      callback(PMIX_ERR_NOMEM, nullptr, 0, callback_data, nullptr, nullptr);
      return;
    }
    memcpy(copy, data.data(), data.size());
  }
  callback(status, copy, data.size(), callback_data, std::free, copy);
}

void answer_modex_later(pmix_modex_cbfunc_t callback, void* callback_data, pmix_status_t status,
                        std::string data) {
  pmix_context().mailbox->call([callback, callback_data, status, data = std::move(data)] {
    answer_modex(callback, callback_data, status, data);
  });
}

/// "0-3,7": the same text for the same ranks, in whatever order they were given.
std::string ranges(const std::vector<uint32_t>& ascending) {
  std::string text;
  for (size_t i = 0; i < ascending.size();) {
    size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", ascending[i]);
    if (last > i) text += fmt::format("-{}", ascending[last]);
    i = last + 1;
  }
  return text;
}

/// Who takes part; nothing when there is a process that is none of this job's.
std::optional<CollectivePart> collective_of(std::span<const pmix_proc_t> processes) {
  const PmixJob& job = pmix_context().job;
  CollectivePart part;
  std::vector<uint32_t> ranks;
  std::vector<bool> takes_part(job.pods());
  for (const pmix_proc_t& process : processes) {
    if (strncmp(process.nspace, job.nspace.c_str(), PMIX_MAX_NSLEN) != 0) return std::nullopt;
    if (process.rank == PMIX_RANK_WILDCARD) {
      part.key = "*";
      takes_part.assign(takes_part.size(), true);
    } else if (process.rank < job.ranks()) {
      ranks.push_back(process.rank);
      takes_part[job.pod_of_rank[process.rank]] = true;
    } else {
      return std::nullopt;
    }
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  if (part.key.empty()) part.key = ranges(ranks);
  for (uint32_t pod = 0; pod < job.pods(); ++pod) {
    // Pods without ranks have nobody to take part.
    if (takes_part[pod] && !job.ranks_of_pod[pod].empty()) part.pods.push_back(pod);
  }
  return part;
}

void on_served(pmix_status_t status, char* data, size_t size, void* callback_data) {
  const std::unique_ptr<Exchange::Answer> answer(static_cast<Exchange::Answer*>(callback_data));
  const bool found = status == PMIX_SUCCESS;
  (*answer)(found, found && data != nullptr ? std::string(data, size) : std::string());
}

}  // namespace

pmix_status_t on_fence(const pmix_proc_t processes[], size_t process_count,
                       const pmix_info_t infos[], size_t info_count, char* data, size_t data_size,
                       pmix_modex_cbfunc_t callback, void* callback_data) {
  std::string blob;
  if (data != nullptr) {
    blob.assign(data, data_size);
    std::free(data);  // libpmix hands it over
  }
  std::optional<CollectivePart> part = collective_of({processes, process_count});
  if (!part) {
    answer_modex_later(callback, callback_data, PMIX_ERR_NOT_SUPPORTED, {});
    return PMIX_SUCCESS;
  }
  part->blob = std::move(blob);
  // A rank of ours died or timed out while the others waited: they have to be told, not kept
  // waiting.
  const pmix_info_t* local = find_info({infos, info_count}, PMIX_LOCAL_COLLECTIVE_STATUS);
  const auto status = local == nullptr ? std::nullopt : integer_of(local->value);
  part->status = static_cast<pmix_status_t>(status.value_or(PMIX_SUCCESS));
  if (part->pods.size() == 1) {
    answer_modex_later(callback, callback_data, part->status, std::move(part->blob));
    return PMIX_SUCCESS;
  }
  pmix_context().exchange->gather(
      *std::move(part), [callback, callback_data](int32_t outcome, const std::string& all) {
        answer_modex_later(callback, callback_data, outcome, all);
      });
  return PMIX_SUCCESS;
}

pmix_status_t on_direct_modex(const pmix_proc_t* process, const pmix_info_t[], size_t,
                              pmix_modex_cbfunc_t callback, void* callback_data) {
  const PmixJob& job = pmix_context().job;
  const bool of_job =
      process != nullptr && strncmp(process->nspace, job.nspace.c_str(), PMIX_MAX_NSLEN) == 0;
  if (!of_job || process->rank >= job.ranks() || job.is_here(process->rank)) {
    return PMIX_ERR_NOT_FOUND;
  }
  pmix_context().exchange->fetch(process->rank, [callback, callback_data](bool found,
                                                                          const std::string& data) {
    answer_modex_later(callback, callback_data, found ? PMIX_SUCCESS : PMIX_ERR_NOT_FOUND, data);
  });
  return PMIX_SUCCESS;
}

void serve_rank(uint32_t rank, Exchange::Answer answer) {
  const PmixJob& job = pmix_context().job;
  if (!job.is_here(rank)) {
    answer(false, {});
    return;
  }
  pmix_proc_t process;
  PMIX_LOAD_PROCID(&process, job.nspace.c_str(), rank);
  auto holder = std::make_unique<Exchange::Answer>(std::move(answer));
  // Answered when the rank has committed its data.
  const pmix_status_t status = PMIx_server_dmodex_request(&process, on_served, holder.get());
  if (status == PMIX_SUCCESS) {
    (void)holder.release();  // on_served() takes it
  } else {
    (*holder)(false, {});
  }
}

}  // namespace fermata::pod
