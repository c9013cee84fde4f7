#include "node-agent/pod/podinit/pmix_job.h"

#include <fmt/format.h>
#include <pmix.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>

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

std::string rank_list(uint32_t ranks) {
  std::string list;
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    if (rank != 0) list += ',';
    list += std::to_string(rank);
  }
  return list;
}

using CString = std::unique_ptr<char, decltype(&std::free)>;

Status add_maps(const PmixJob& job, const std::string& peers, InfoList& infos) {
  char* text = nullptr;
  pmix_status_t status = PMIx_generate_regex(job.host.c_str(), &text);
  const CString nodes(text, &std::free);
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_generate_regex");
  text = nullptr;
  status = PMIx_generate_ppn(peers.c_str(), &text);
  const CString processes(text, &std::free);
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_generate_ppn");
  infos.add_regex(PMIX_NODE_MAP, nodes.get());
  infos.add_regex(PMIX_PROC_MAP, processes.get());
  return Status::ok();
}

void add_node(const PmixJob& job, const std::string& peers, InfoList& infos) {
  infos.add(PMIX_HOSTNAME, job.host);
  infos.add_u32(PMIX_NODEID, 0);
  infos.add_u32(PMIX_LOCAL_SIZE, job.ranks);
  infos.add_u32(PMIX_NODE_SIZE, job.ranks);
  infos.add(PMIX_LOCAL_PEERS, peers);
}

InfoList describe_rank(const PmixJob& job, uint32_t rank) {
  InfoList infos;
  infos.add_rank(PMIX_RANK, rank);
  infos.add_u32(PMIX_APPNUM, 0);
  infos.add_rank(PMIX_APPLDR, 0);
  infos.add_rank(PMIX_APP_RANK, rank);
  infos.add_rank(PMIX_GLOBAL_RANK, rank);
  infos.add_u16(PMIX_LOCAL_RANK, static_cast<uint16_t>(rank));
  infos.add_u16(PMIX_NODE_RANK, static_cast<uint16_t>(rank));
  infos.add_u32(PMIX_NODEID, 0);
  infos.add(PMIX_HOSTNAME, job.host);
  infos.add_u32(PMIX_REINCARNATION, 0);
  return infos;
}

Status describe_job(const PmixJob& job, InfoList& infos) {
  const std::string peers = rank_list(job.ranks);
  FERMATA_TRY(add_maps(job, peers, infos));
  infos.add(PMIX_JOBID, job.nspace);
  infos.add_u32(PMIX_UNIV_SIZE, job.ranks);
  infos.add_u32(PMIX_JOB_SIZE, job.ranks);
  infos.add_u32(PMIX_MAX_PROCS, job.ranks);
  infos.add_u32(PMIX_JOB_NUM_APPS, 1);
  infos.add_u32(PMIX_NUM_NODES, 1);
  infos.add_flag(PMIX_SPAWNED, false);
  infos.add(PMIX_TMPDIR, job.folder);
  infos.add(PMIX_NSDIR, job.folder + "/ranks");
  // The folder goes with the pod's /dev/shm: no rank need tidy it.
  infos.add_flag(PMIX_TDIR_RMCLEAN, true);
  add_node(job, peers, infos);
  infos.add_rank(PMIX_LOCALLDR, 0);
  InfoList node;
  add_node(job, peers, node);
  infos.add_array(PMIX_NODE_INFO_ARRAY, std::move(node));
  for (uint32_t rank = 0; rank < job.ranks; ++rank) {
    infos.add_array(PMIX_PROC_DATA, describe_rank(job, rank));
  }
  return Status::ok();
}

}  // namespace

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
    const pmix_status_t status =
        done.wait(PMIx_server_register_nspace(nspace, static_cast<int>(job.ranks), infos.data(),
                                              infos.size(), Completion::callback, &done));
    if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_register_nspace");
  }
  for (uint32_t rank = 0; rank < job.ranks; ++rank) {
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
