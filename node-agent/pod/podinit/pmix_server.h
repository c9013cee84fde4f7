// podinit as a PMIx server: libpmix does the talking to the ranks, this answers what libpmix asks
// of its host. libpmix has one set of callbacks per process, so there is one server. The functions
// are called on the main thread; callbacks run on libpmix's and reach the main loop by the Mailbox.
// Every answer to libpmix is given by the main loop: from within the upcall itself it may deadlock
// (PMIx_Log of 4.2 does).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "node-agent/pod/podinit/exchange.h"
#include "node-agent/pod/podinit/mailbox.h"
#include "node-agent/pod/podinit/pmix_job.h"
#include "node-agent/pod/podinit/publish.h"
#include "node-agent/pod/podinit/rank_table.h"

namespace fermata::pod {

/// What the callbacks work on; outlives libpmix's thread.
struct PmixContext {
  PmixJob job;
  RankTable* ranks;
  Mailbox* mailbox;
  Exchange* exchange;
  Publisher publisher{[this](std::function<void()> answer) { mailbox->call(std::move(answer)); }};
};

/// Starts the server and registers the job. Signals that the main loop takes have to be blocked
/// before.
Status start_pmix_server(PmixContext& context);

/// Adds what rank `rank` needs to find the server (PMIX_*) to its environment.
Status add_pmix_variables(const PmixContext& context, uint32_t rank,
                          std::vector<std::string>& environment);

// What other pods ask of this one, once the server has started; see FolderExchange::Handlers.
void serve_rank(uint32_t rank, Exchange::Answer answer);
void serve_names(const std::string& call, Exchange::Answer answer);

/// A rank of this pod has finalized or ended: forgets what it published to be kept only as long,
/// and the lookups it waits for.
void forget_names_of(const pmix_proc_t& source);

}  // namespace fermata::pod
