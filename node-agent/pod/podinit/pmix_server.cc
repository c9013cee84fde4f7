#include "node-agent/pod/podinit/pmix_server.h"

#include <fmt/format.h>
#include <pmix.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <span>

#include "node-agent/pod/podinit/held_port.h"
#include "node-agent/pod/podinit/pmix_callbacks.h"
#include "node-agent/pod/podinit/pmix_values.h"
#include "node-agent/pod/podinit/rank_environment.h"

namespace fermata::pod {
namespace {

// Set once, before libpmix has a thread.
PmixContext* g_context = nullptr;

bool is_of_job(const pmix_proc_t* process) {
  return process != nullptr &&
         strncmp(process->nspace, g_context->job.nspace.c_str(), PMIX_MAX_NSLEN) == 0;
}

RankFlags* flags_of(const pmix_proc_t* process) {
  if (!is_of_job(process) || !g_context->job.is_here(process->rank)) return nullptr;
  return &g_context->ranks->flags()[process->rank];
}

pmix_status_t on_connected(const pmix_proc_t* process, void*, pmix_info_t[], size_t,
                           pmix_op_cbfunc_t, void*) {
  if (RankFlags* flags = flags_of(process)) {
    flags->finalized = false;
    flags->connected = true;
  }
  return PMIX_OPERATION_SUCCEEDED;
}

pmix_status_t on_finalized(const pmix_proc_t* process, void*, pmix_op_cbfunc_t, void*) {
  if (RankFlags* flags = flags_of(process)) flags->finalized = true;
  if (process != nullptr) forget_names_of(*process);
  return PMIX_OPERATION_SUCCEEDED;
}

pmix_status_t on_abort(const pmix_proc_t* process, void*, int status, const char[], pmix_proc_t[],
                       size_t, pmix_op_cbfunc_t, void*) {
  // Which ranks are to end is not asked: an MPI job does not outlive a part of itself (as with
  // srun).
  Message abort;
  abort.kind = Message::Kind::kAbort;
  abort.rank = process == nullptr ? 0 : process->rank;
  abort.value = status;
  g_context->mailbox->post(std::move(abort));
  return PMIX_OPERATION_SUCCEEDED;
}

// A pod starts its ranks once, and connects to no other job: MPI_Comm_spawn and MPI_Comm_connect
// fail.
pmix_status_t on_spawn(const pmix_proc_t*, const pmix_info_t[], size_t, const pmix_app_t[], size_t,
                       pmix_spawn_cbfunc_t, void*) {
  return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t on_connect(const pmix_proc_t[], size_t, const pmix_info_t[], size_t, pmix_op_cbfunc_t,
                         void*) {
  return PMIX_ERR_NOT_SUPPORTED;
}

// libpmix keeps who listens to what, and hands an event of one rank to the others of this server
// before it asks us to carry it to other nodes: of that a pod knows nothing (Open MPI 4 does not
// ask for it), and says so.
pmix_status_t on_register_events(pmix_status_t*, size_t, const pmix_info_t[], size_t,
                                 pmix_op_cbfunc_t, void*) {
  return PMIX_OPERATION_SUCCEEDED;
}

pmix_status_t on_deregister_events(pmix_status_t*, size_t, pmix_op_cbfunc_t, void*) {
  return PMIX_OPERATION_SUCCEEDED;
}

pmix_status_t on_notify_event(pmix_status_t, const pmix_proc_t*, pmix_data_range_t range,
                              pmix_info_t[], size_t, pmix_op_cbfunc_t, void*) {
  const bool stays_here = g_context->job.pods() == 1 || range == PMIX_RANGE_LOCAL ||
                          range == PMIX_RANGE_PROC_LOCAL || range == PMIX_RANGE_RM;
  return stays_here ? PMIX_OPERATION_SUCCEEDED : PMIX_ERR_NOT_SUPPORTED;
}

void free_infos(void* infos) {
  auto* list = static_cast<InfoList*>(infos);
  delete list;
}

pmix_status_t on_query(pmix_proc_t*, pmix_query_t* queries, size_t count,
                       pmix_info_cbfunc_t callback, void* callback_data) {
  auto answers = std::make_unique<InfoList>();
  bool unknown = false;
  for (const pmix_query_t& query : std::span(queries, count)) {
    for (char** key = query.keys; key != nullptr && *key != nullptr; ++key) {
      if (strcmp(*key, PMIX_QUERY_NAMESPACES) == 0) {
        answers->add(PMIX_QUERY_NAMESPACES, g_context->job.nspace);
      } else if (strcmp(*key, PMIX_JOB_SIZE) == 0) {
        answers->add_u32(PMIX_JOB_SIZE, g_context->job.ranks());
      } else {
        unknown = true;
      }
    }
  }
  if (answers->size() == 0) return PMIX_ERR_NOT_SUPPORTED;
  InfoList* list = answers.release();
  const pmix_status_t status = unknown ? PMIX_ERR_PARTIAL_SUCCESS : PMIX_SUCCESS;
  g_context->mailbox->call([callback, callback_data, status, list] {
    callback(status, list->data(), list->size(), callback_data, free_infos, list);
  });
  return PMIX_SUCCESS;
}

/// The ranks a request is about; empty: the whole job. Nothing when one of them is not of this pod.
std::optional<std::vector<uint32_t>> targets_of(std::span<const pmix_proc_t> processes) {
  std::vector<uint32_t> ranks;
  for (const pmix_proc_t& process : processes) {
    if (process.rank == PMIX_RANK_WILDCARD) return std::vector<uint32_t>();
    if (flags_of(&process) == nullptr) return std::nullopt;
    ranks.push_back(process.rank);
  }
  return ranks;
}

/// The signal that a job-control directive stands for; 0: none.
int signal_of(const pmix_info_t& info) {
  const std::string_view key = key_of(info);
  if (key == PMIX_JOB_CTRL_SIGNAL) return static_cast<int>(integer_of(info.value).value_or(0));
  if (!flag_of(info.value)) return 0;
  if (key == PMIX_JOB_CTRL_KILL) return SIGKILL;
  if (key == PMIX_JOB_CTRL_TERMINATE) return SIGTERM;
  if (key == PMIX_JOB_CTRL_PAUSE) return SIGSTOP;
  if (key == PMIX_JOB_CTRL_RESUME) return SIGCONT;
  return 0;
}

pmix_status_t on_job_control(const pmix_proc_t*, const pmix_proc_t targets[], size_t target_count,
                             const pmix_info_t directives[], size_t directive_count,
                             pmix_info_cbfunc_t, void*) {
  const auto ranks = targets_of({targets, target_count});
  if (!ranks) return PMIX_ERR_NOT_SUPPORTED;
  bool done = false;
  for (const pmix_info_t& info : std::span(directives, directive_count)) {
    const int signo = signal_of(info);
    if (signo <= 0 || signo > SIGRTMAX) continue;
    Message message;
    message.ranks = *ranks;
    message.value = signo;
    const bool ends_all = ranks->empty() && (signo == SIGKILL || signo == SIGTERM);
    // The end of a step is told to its other pods; any other signal stays here.
    if (ranks->empty() && !ends_all && g_context->job.pods() > 1) continue;
    message.kind = ends_all ? Message::Kind::kEnd : Message::Kind::kSignal;
    g_context->mailbox->post(std::move(message));
    done = true;
  }
  return done ? PMIX_OPERATION_SUCCEEDED : PMIX_ERR_NOT_SUPPORTED;
}

void on_log(const pmix_proc_t*, const pmix_info_t data[], size_t count, const pmix_info_t[], size_t,
            pmix_op_cbfunc_t callback, void* callback_data) {
  pmix_status_t status = PMIX_SUCCESS;
  for (const pmix_info_t& info : std::span(data, count)) {
    const bool to_stderr = key_of(info) == PMIX_LOG_STDERR;
    const bool to_stdout = key_of(info) == PMIX_LOG_STDOUT;
    if ((!to_stderr && !to_stdout) || info.value.type != PMIX_STRING ||
        info.value.data.string == nullptr) {
      status = PMIX_ERR_NOT_SUPPORTED;
      continue;
    }
    const char* text = info.value.data.string;
    if (write(to_stderr ? STDERR_FILENO : STDOUT_FILENO, text, strlen(text)) < 0) {
      status = PMIX_ERROR;
    }
  }
  if (callback == nullptr) return;
  g_context->mailbox->call([callback, callback_data, status] { callback(status, callback_data); });
}

/// libpmix tells of a rank whose connection broke by an event, not by a callback of the module.
void on_event(size_t, pmix_status_t status, const pmix_proc_t* source, pmix_info_t[], size_t,
              pmix_info_t[], size_t, pmix_event_notification_cbfunc_fn_t done, void* done_data) {
  const bool lost = status == PMIX_ERR_LOST_CONNECTION || status == PMIX_ERR_PROC_TERM_WO_SYNC ||
                    status == PMIX_ERR_PROC_ABORTED;
  if (lost && flags_of(source) != nullptr) {
    Message message;
    message.kind = Message::Kind::kLost;
    message.rank = source->rank;
    g_context->mailbox->post(std::move(message));
  }
  if (done != nullptr) done(PMIX_EVENT_ACTION_COMPLETE, nullptr, 0, nullptr, nullptr, done_data);
}

pmix_server_module_t make_module() {
  pmix_server_module_t module{};
  module.client_connected2 = on_connected;
  module.client_finalized = on_finalized;
  module.abort = on_abort;
  module.fence_nb = on_fence;
  module.direct_modex = on_direct_modex;
  module.publish = on_publish;
  module.lookup = on_lookup;
  module.unpublish = on_unpublish;
  module.spawn = on_spawn;
  module.connect = on_connect;
  module.disconnect = on_connect;
  module.register_events = on_register_events;
  module.deregister_events = on_deregister_events;
  module.notify_event = on_notify_event;
  module.query = on_query;
  module.job_control = on_job_control;
  module.log = on_log;
  return module;
}

}  // namespace

PmixContext& pmix_context() { return *g_context; }

Status start_pmix_server(PmixContext& context) {
  g_context = &context;
  static pmix_server_module_t module = make_module();
  InfoList infos;
  infos.add(PMIX_SERVER_TMPDIR, context.job.folder + "/server");
  infos.add(PMIX_SERVER_NSPACE, context.job.nspace + ".podinit");
  infos.add_rank(PMIX_SERVER_RANK, context.job.pod);
  const Result<HeldPort> port = HeldPort::choose();
  if (port) infos.add_int(PMIX_TCP_IPV4_PORT, port->number());  // else one that libpmix is given
  const pmix_status_t status = PMIx_server_init(&module, infos.data(), infos.size());
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_init");
  // No codes: the handler of everything that has none of its own.
  PMIx_Register_event_handler(nullptr, 0, nullptr, 0, on_event, nullptr, nullptr);
  return register_job(context.job);
}

Status add_pmix_variables(const PmixContext& context, uint32_t rank,
                          std::vector<std::string>& environment) {
  pmix_proc_t process;
  PMIX_LOAD_PROCID(&process, context.job.nspace.c_str(), rank);
  char** added = nullptr;
  const pmix_status_t status = PMIx_server_setup_fork(&process, &added);
  if (status != PMIX_SUCCESS) return pmix_failure(status, "PMIx_server_setup_fork");
  for (char** entry = added; entry != nullptr && *entry != nullptr; ++entry) {
    const char* equals = strchr(*entry, '=');
    if (equals == nullptr) continue;
    const std::string name(*entry, static_cast<size_t>(equals - *entry));
    // Settings were chosen before, and the user's win.
    if (name.starts_with("PMIX_MCA_")) continue;
    set_variable(environment, name, equals + 1);
  }
  PMIX_ARGV_FREE(added);
  return Status::ok();
}

}  // namespace fermata::pod
