// Publish, lookup and unpublish. A step has one store of names, in the pod of rank 0; the other
// pods call it.
#include "node-agent/pod/podinit/names_calls.h"
#include "node-agent/pod/podinit/pmix_callbacks.h"

namespace fermata::pod {
namespace {

uint32_t keeper() { return pmix_context().job.pod_of_rank.front(); }
bool kept_here() { return keeper() == pmix_context().job.pod; }

/// Only of ranks that have to do with names the keeper is told when they end.
void remember(const pmix_proc_t& user) {
  const PmixContext& context = pmix_context();
  if (context.job.is_here(user.rank)) context.ranks->flags()[user.rank].uses_names = true;
}

/// Has the keeper carry out a call that only has a status.
pmix_status_t call_keeper(std::string call, pmix_op_cbfunc_t callback, void* callback_data) {
  if (call.empty()) return PMIX_ERR_PACK_FAILURE;
  pmix_context().exchange->call_names(
      keeper(), std::move(call), [callback, callback_data](bool, const std::string& text) {
        pmix_context().mailbox->call([callback, callback_data, text] {
          callback(NamesOutcome(text).status(), callback_data);
        });
      });
  return PMIX_SUCCESS;
}

}  // namespace

pmix_status_t on_publish(const pmix_proc_t* source, const pmix_info_t infos[], size_t count,
                         pmix_op_cbfunc_t callback, void* callback_data) {
  if (!kept_here()) {
    remember(*source);
    return call_keeper(encode_publish(*source, {infos, count}), callback, callback_data);
  }
  const pmix_status_t status = pmix_context().publisher.publish(*source, {infos, count});
  return status == PMIX_SUCCESS ? PMIX_OPERATION_SUCCEEDED : status;
}

pmix_status_t on_lookup(const pmix_proc_t* reader, char** keys, const pmix_info_t infos[],
                        size_t count, pmix_lookup_cbfunc_t callback, void* callback_data) {
  if (kept_here()) {
    pmix_context().publisher.lookup(*reader, keys, {infos, count}, callback, callback_data);
    pmix_context().mailbox->post({});  // there may be a new deadline
    return PMIX_SUCCESS;
  }
  remember(*reader);
  std::string call = encode_lookup(*reader, keys, {infos, count});
  if (call.empty()) return PMIX_ERR_PACK_FAILURE;
  pmix_context().exchange->call_names(
      keeper(), std::move(call), [callback, callback_data](bool, const std::string& text) {
        pmix_context().mailbox->call([callback, callback_data, text] {
          NamesOutcome outcome(text);
          callback(outcome.status(), outcome.data().data(), outcome.data().size(), callback_data);
        });
      });
  return PMIX_SUCCESS;
}

pmix_status_t on_unpublish(const pmix_proc_t* source, char** keys, const pmix_info_t[], size_t,
                           pmix_op_cbfunc_t callback, void* callback_data) {
  if (!kept_here()) return call_keeper(encode_unpublish(*source, keys), callback, callback_data);
  const pmix_status_t status = pmix_context().publisher.unpublish(*source, keys);
  return status == PMIX_SUCCESS ? PMIX_OPERATION_SUCCEEDED : status;
}

void forget_names_of(const pmix_proc_t& source) {
  if (kept_here()) {
    pmix_context().publisher.process_ended(source);
  } else if (pmix_context().job.is_here(source.rank) &&
             pmix_context().ranks->flags()[source.rank].uses_names.exchange(false)) {
    pmix_context().exchange->call_names(keeper(), encode_process_ended(source),
                                        [](bool, const std::string&) {});
  }
}

void serve_names(const std::string& call, Exchange::Answer answer) {
  carry_out(pmix_context().publisher, call,
            [answer = std::move(answer)](const std::string& outcome) { answer(true, outcome); });
}

}  // namespace fermata::pod
