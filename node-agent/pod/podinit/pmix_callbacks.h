// The callbacks that pmix_server.cc gives to libpmix and other files carry out. libpmix has one set
// of them for a process, so there is one context. All run on libpmix's thread.
#pragma once

#include <pmix_server.h>

#include "node-agent/pod/podinit/pmix_server.h"

namespace fermata::pod {

/// Of start_pmix_server().
PmixContext& pmix_context();

// pmix_collectives.cc
pmix_status_t on_fence(const pmix_proc_t processes[], size_t process_count,
                       const pmix_info_t infos[], size_t info_count, char* data, size_t data_size,
                       pmix_modex_cbfunc_t callback, void* callback_data);
pmix_status_t on_direct_modex(const pmix_proc_t* process, const pmix_info_t infos[], size_t count,
                              pmix_modex_cbfunc_t callback, void* callback_data);

// pmix_names.cc
pmix_status_t on_publish(const pmix_proc_t* source, const pmix_info_t infos[], size_t count,
                         pmix_op_cbfunc_t callback, void* callback_data);
pmix_status_t on_lookup(const pmix_proc_t* reader, char** keys, const pmix_info_t infos[],
                        size_t count, pmix_lookup_cbfunc_t callback, void* callback_data);
pmix_status_t on_unpublish(const pmix_proc_t* source, char** keys, const pmix_info_t infos[],
                           size_t count, pmix_op_cbfunc_t callback, void* callback_data);

}  // namespace fermata::pod
