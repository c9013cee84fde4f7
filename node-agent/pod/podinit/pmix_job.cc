#include "node-agent/pod/podinit/pmix_job.h"

#include <fmt/format.h>
#include <pmix.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "node-agent/pod/podinit/pmix_values.h"

namespace fermata::pod {
namespace {

/// Waits for the callback of an asynchronous call.
class Completion {
 public:
  static void callback(pmix_status_t status, void* self) {
    auto* completion = static_cast<Completion*>(self);
    const std::lock_guard lock(completion->mutex_);
    completion->status_ = status;
    completion->done_ = true;
    completion->changed_.notify_all();
  }

  /// `started`: what the call itself returned.
  pmix_status_t wait(pmix_status_t started) {
    if (started == PMIX_OPERATION_SUCCEEDED) return PMIX_SUCCESS;
    if (started != PMIX_SUCCESS) return started;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  pmix_status_t status_ = PMIX_SUCCESS;
};

std::string rank_list(const std::vector<uint32_t>& ranks) {
  return fmt::format("{}", fmt::join(ranks, ","));
}

using CString = std::unique_ptr<char, decltype(&std::free)>;

Status add_maps(const PmixJob& job, InfoList& infos) {
  std::vector<std::string> ranks;
  for (const auto& of_pod : job.ranks_of_pod) ranks.push_back(rank_list(of_pod));
  char* text = nullptr;
  const std::string names = fmt::format("{}", fmt::join(job.hosts, ","));
  pmix_status_t status = PMIx_generate_regex(names.c_str(), &text);
  const CString nodes(text, &std::free);
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_generate_regex");
  text = nullptr;
  const std::string places = fmt::format("{}", fmt::join(ranks, ";"));
  status = PMIx_generate_ppn(places.c_str(), &text);
  const CString processes(text, &std::free);
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_generate_ppn");
  infos.add_regex(PMIX_NODE_MAP, nodes.get());
  infos.add_regex(PMIX_PROC_MAP, processes.get());
  return Status::ok();
}

void add_node(const PmixJob& job, uint32_t pod, InfoList& infos) {
  const auto size = static_cast<uint32_t>(job.ranks_of_pod[pod].size());
  infos.add(PMIX_HOSTNAME, job.hosts[pod]);
  infos.add_u32(PMIX_NODEID, pod);
  infos.add_u32(PMIX_LOCAL_SIZE, size);
  infos.add_u32(PMIX_NODE_SIZE, size);
  infos.add(PMIX_LOCAL_PEERS, rank_list(job.ranks_of_pod[pod]));
}

InfoList describe_rank(const PmixJob& job, uint32_t pod, uint16_t local_rank) {
  const uint32_t rank = job.ranks_of_pod[pod][local_rank];
  InfoList infos;
  infos.add_rank(PMIX_RANK, rank);
  infos.add_u32(PMIX_APPNUM, 0);
  infos.add_rank(PMIX_APPLDR, 0);
  infos.add_rank(PMIX_APP_RANK, rank);
  infos.add_rank(PMIX_GLOBAL_RANK, rank);
  infos.add_u16(PMIX_LOCAL_RANK, local_rank);
  infos.add_u16(PMIX_NODE_RANK, local_rank);
  infos.add_u32(PMIX_NODEID, pod);
  infos.add(PMIX_HOSTNAME, job.hosts[pod]);
  infos.add_u32(PMIX_REINCARNATION, 0);
  return infos;
}

Status describe_job(const PmixJob& job, InfoList& infos) {
  FERMATA_TRY(add_maps(job, infos));
  infos.add(PMIX_JOBID, job.nspace);
  infos.add_u32(PMIX_UNIV_SIZE, job.ranks());
  infos.add_u32(PMIX_JOB_SIZE, job.ranks());
  infos.add_u32(PMIX_MAX_PROCS, job.ranks());
  infos.add_u32(PMIX_JOB_NUM_APPS, 1);
  infos.add_u32(PMIX_NUM_NODES, job.pods());
  infos.add_flag(PMIX_SPAWNED, false);
  infos.add(PMIX_TMPDIR, job.folder);
  infos.add(PMIX_NSDIR, job.folder + "/ranks");
  // The folder goes with the pod's /dev/shm: no rank need tidy it.
  infos.add_flag(PMIX_TDIR_RMCLEAN, true);
  add_node(job, job.pod, infos);
  if (!job.ranks_here().empty()) infos.add_rank(PMIX_LOCALLDR, job.ranks_here().front());
  for (uint32_t pod = 0; pod < job.pods(); ++pod) {
    InfoList node;
    add_node(job, pod, node);
    infos.add_array(PMIX_NODE_INFO_ARRAY, std::move(node));
    for (size_t local = 0; local < job.ranks_of_pod[pod].size(); ++local) {
      infos.add_array(PMIX_PROC_DATA, describe_rank(job, pod, static_cast<uint16_t>(local)));
    }
  }
  return Status::ok();
}

}  // namespace

PmixJob::PmixJob(const PodinitConfig& config, std::string session_folder)
    : nspace(to_string(config.job)),
      hosts(config.hosts),
      folder(std::move(session_folder)),
      pod(config.pod),
      pod_of_rank(config.pod_of_rank),
      ranks_of_pod(config.hosts.size()) {
  for (uint32_t rank = 0; rank < ranks(); ++rank) ranks_of_pod[pod_of_rank[rank]].push_back(rank);
}

Status pmix_failure(pmix_status_t status, const std::string& what) {
  return {Code::kInternal, fmt::format("{}: {}", what, PMIx_Error_string(status))};
}

Status register_job(const PmixJob& job) {
  InfoList infos;
  FERMATA_TRY(describe_job(job, infos));
  pmix_nspace_t nspace;
  PMIX_LOAD_NSPACE(nspace, job.nspace.c_str());
  {
    Completion done;
    const pmix_status_t status =
        done.wait(PMIx_server_setup_local_support(nspace, nullptr, 0, Completion::callback, &done));
    if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_setup_local_support");
  }
  {
    Completion done;
    const pmix_status_t status = done.wait(
        PMIx_server_register_nspace(nspace, static_cast<int>(job.ranks_here().size()), infos.data(),
                                    infos.size(), Completion::callback, &done));
    if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_register_nspace");
  }
  for (const uint32_t rank : job.ranks_here()) {
    pmix_proc_t process;
    PMIX_LOAD_PROCID(&process, job.nspace.c_str(), rank);
    Completion done;
    const pmix_status_t status = done.wait(PMIx_server_register_client(
        &process, getuid(), getgid(), nullptr, Completion::callback, &done));
    if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_register_client");
  }
  return Status::ok();
}

}  // namespace fermata::pod
