// Asks podinit's PMIx server for everything that Open MPI does not: run on two ranks, "apart" when
// they are in different pods. Prints "rank N: ok" or what went wrong.
#include <pmix.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pmix_proc_t me;
static volatile int events = 0;

static void require(bool good, const char* what, pmix_status_t status) {
  if (good) return;
  fprintf(stderr, "rank %u: %s: %s\n", me.rank, what, PMIx_Error_string(status));
  exit(1);
}

static void fence(void) {
  const pmix_status_t status = PMIx_Fence(NULL, 0, NULL, 0);
  require(status == PMIX_SUCCESS, "fence", status);
}

static void on_event(size_t handler, pmix_status_t status, const pmix_proc_t* source,
                     pmix_info_t info[], size_t count, pmix_info_t results[], size_t result_count,
                     pmix_event_notification_cbfunc_fn_t done, void* data) {
  (void)handler;
  (void)status;
  (void)info;
  (void)count;
  (void)results;
  (void)result_count;
  if (source->rank == 0) ++events;
  if (done != NULL) done(PMIX_EVENT_ACTION_COMPLETE, NULL, 0, NULL, NULL, data);
}

static volatile int registered = 0;
static void on_registered(pmix_status_t status, size_t handler, void* data) {
  (void)handler;
  (void)data;
  registered = status == PMIX_SUCCESS ? 1 : -1;
}

static void try_publish(void) {
  pmix_status_t status;
  if (me.rank == 0) {
    pmix_info_t info;
    PMIX_INFO_CONSTRUCT(&info);
    PMIX_INFO_LOAD(&info, "fermata.test", "a value", PMIX_STRING);
    status = PMIx_Publish(&info, 1);
    require(status == PMIX_SUCCESS, "publish", status);
    status = PMIx_Publish(&info, 1);
    require(status == PMIX_ERR_DUPLICATE_KEY, "publish twice", status);
    fence();
    fence();
    char* keys[] = {info.key, NULL};
    status = PMIx_Unpublish(keys, NULL, 0);
    require(status == PMIX_SUCCESS, "unpublish", status);
    fence();
    return;
  }
  fence();
  pmix_pdata_t data;
  PMIX_PDATA_CONSTRUCT(&data);
  PMIX_LOAD_KEY(data.key, "fermata.test");
  status = PMIx_Lookup(&data, 1, NULL, 0);
  require(status == PMIX_SUCCESS, "lookup", status);
  require(data.value.type == PMIX_STRING && strcmp(data.value.data.string, "a value") == 0,
          "value looked up", status);
  require(data.proc.rank == 0, "publisher", status);
  fence();
  fence();
  PMIX_PDATA_DESTRUCT(&data);
  PMIX_PDATA_CONSTRUCT(&data);
  PMIX_LOAD_KEY(data.key, "fermata.test");
  status = PMIx_Lookup(&data, 1, NULL, 0);
  require(status == PMIX_ERR_NOT_FOUND, "lookup of what is unpublished", status);
}

/// Rank 1 waits for what rank 0 publishes half a second later; then for what never comes.
static void try_wait(void) {
  if (me.rank == 0) {
    usleep(500000);
    pmix_info_t info;
    PMIX_INFO_CONSTRUCT(&info);
    PMIX_INFO_LOAD(&info, "fermata.late", "came", PMIX_STRING);
    const pmix_status_t status = PMIx_Publish(&info, 1);
    require(status == PMIX_SUCCESS, "late publish", status);
    fence();
    return;
  }
  pmix_pdata_t data;
  PMIX_PDATA_CONSTRUCT(&data);
  PMIX_LOAD_KEY(data.key, "fermata.late");
  pmix_info_t directives[2];
  int count = 1;
  int seconds = 1;
  PMIX_INFO_CONSTRUCT(&directives[0]);
  PMIX_INFO_LOAD(&directives[0], PMIX_WAIT, &count, PMIX_INT);
  PMIX_INFO_CONSTRUCT(&directives[1]);
  PMIX_INFO_LOAD(&directives[1], PMIX_TIMEOUT, &seconds, PMIX_INT);
  pmix_status_t status = PMIx_Lookup(&data, 1, directives, 1);
  require(status == PMIX_SUCCESS && strcmp(data.value.data.string, "came") == 0,
          "lookup that waits", status);
  pmix_pdata_t never;
  PMIX_PDATA_CONSTRUCT(&never);
  PMIX_LOAD_KEY(never.key, "fermata.never");
  status = PMIx_Lookup(&never, 1, directives, 2);
  require(status == PMIX_ERR_TIMEOUT, "lookup of what never comes", status);
  fence();
}

/// What the other rank puts after the last fence is fetched from its server, also when it is put
/// later than it is asked for.
static void try_direct_modex(void) {
  char key[32];
  snprintf(key, sizeof key, "fermata.card.%u", me.rank);
  pmix_value_t value;
  PMIX_VALUE_LOAD(&value, me.rank == 0 ? "zero" : "one", PMIX_STRING);
  if (me.rank == 0) usleep(300000);
  pmix_status_t status = PMIx_Put(PMIX_GLOBAL, key, &value);
  require(status == PMIX_SUCCESS, "put", status);
  status = PMIx_Commit();
  require(status == PMIX_SUCCESS, "commit", status);
  pmix_proc_t other;
  PMIX_LOAD_PROCID(&other, me.nspace, 1 - me.rank);
  snprintf(key, sizeof key, "fermata.card.%u", other.rank);
  pmix_value_t* got = NULL;
  status = PMIx_Get(&other, key, NULL, 0, &got);
  require(status == PMIX_SUCCESS && strcmp(got->data.string, me.rank == 0 ? "one" : "zero") == 0,
          "direct modex", status);
  PMIX_VALUE_RELEASE(got);
  fence();
}

/// Fences of all and of pairs, with data that every rank checks.
static void many_fences(int count) {
  pmix_info_t collect;
  PMIX_INFO_CONSTRUCT(&collect);
  PMIX_INFO_LOAD(&collect, PMIX_COLLECT_DATA, NULL, PMIX_BOOL);
  pmix_proc_t pair[2];
  PMIX_LOAD_PROCID(&pair[0], me.nspace, 0);
  PMIX_LOAD_PROCID(&pair[1], me.nspace, 1);
  char key[32];
  char text[32];
  for (int i = 0; i < count; ++i) {
    snprintf(key, sizeof key, "fermata.%d.%u", i, me.rank);
    snprintf(text, sizeof text, "%d of %u", i, me.rank);
    pmix_value_t value;
    PMIX_VALUE_LOAD(&value, text, PMIX_STRING);
    pmix_status_t status = PMIx_Put(PMIX_GLOBAL, key, &value);
    require(status == PMIX_SUCCESS, "put", status);
    PMIX_VALUE_DESTRUCT(&value);
    PMIx_Commit();
    status = PMIx_Fence(NULL, 0, &collect, 1);
    require(status == PMIX_SUCCESS, "fence that collects", status);
    pmix_proc_t other;
    PMIX_LOAD_PROCID(&other, me.nspace, me.rank == 0 ? 1 : 0);
    snprintf(key, sizeof key, "fermata.%d.%u", i, other.rank);
    snprintf(text, sizeof text, "%d of %u", i, other.rank);
    pmix_value_t* got = NULL;
    status = PMIx_Get(&other, key, NULL, 0, &got);
    require(status == PMIX_SUCCESS && strcmp(got->data.string, text) == 0, "data of a fence",
            status);
    PMIX_VALUE_RELEASE(got);
    if (me.rank <= 1 && i % 3 == 0) {
      status = PMIx_Fence(pair, 2, NULL, 0);
      require(status == PMIX_SUCCESS, "fence of two", status);
    }
  }
}

static void try_events(void) {
  pmix_status_t code = PMIX_EXTERNAL_ERR_BASE - 7;
  PMIx_Register_event_handler(&code, 1, NULL, 0, on_event, on_registered, NULL);
  while (registered == 0) usleep(1000);
  require(registered == 1, "register_event_handler", PMIX_ERROR);
  fence();
  if (me.rank == 0) {
    const pmix_status_t status =
        PMIx_Notify_event(code, &me, PMIX_RANGE_NAMESPACE, NULL, 0, NULL, NULL);
    require(status == PMIX_SUCCESS || status == PMIX_OPERATION_SUCCEEDED, "notify_event", status);
  } else {
    for (int i = 0; i < 5000 && events == 0; ++i) usleep(1000);
    usleep(200000);  // a second delivery would come now
    require(events == 1, "events of rank 0 seen by rank 1, once", PMIX_ERROR);
  }
  fence();
}

static void try_query(void) {
  pmix_query_t query;
  PMIX_QUERY_CONSTRUCT(&query);
  pmix_status_t status;
  PMIX_ARGV_APPEND(status, query.keys, PMIX_QUERY_NAMESPACES);
  pmix_info_t* results = NULL;
  size_t count = 0;
  status = PMIx_Query_info(&query, 1, &results, &count);
  require(status == PMIX_SUCCESS && count == 1, "query of namespaces", status);
  PMIX_QUERY_DESTRUCT(&query);
  PMIX_QUERY_CONSTRUCT(&query);
  PMIX_ARGV_APPEND(status, query.keys, "fermata.unknown");
  status = PMIx_Query_info(&query, 1, &results, &count);
  require(status != PMIX_SUCCESS, "query of something unknown", status);
}

static void try_log(void) {
  pmix_info_t data;
  PMIX_INFO_CONSTRUCT(&data);
  PMIX_INFO_LOAD(&data, PMIX_LOG_STDOUT, "logged\n", PMIX_STRING);
  const pmix_status_t status = PMIx_Log(&data, 1, NULL, 0);
  require(status == PMIX_SUCCESS || status == PMIX_OPERATION_SUCCEEDED, "log", status);
}

static void try_unsupported(void) {
  pmix_app_t app;
  PMIX_APP_CONSTRUCT(&app);
  app.cmd = strdup("/bin/true");
  app.maxprocs = 1;
  char nspace[PMIX_MAX_NSLEN + 1] = "";
  const pmix_status_t status = PMIx_Spawn(NULL, 0, &app, 1, nspace);
  require(status == PMIX_ERR_NOT_SUPPORTED, "spawn", status);
}

/// Ends the other rank, and by that the job.
static void kill_other(void) {
  fence();
  if (me.rank == 0) {
    pmix_proc_t target;
    PMIX_LOAD_PROCID(&target, me.nspace, 1);
    pmix_info_t directive;
    PMIX_INFO_CONSTRUCT(&directive);
    PMIX_INFO_LOAD(&directive, PMIX_JOB_CTRL_KILL, NULL, PMIX_BOOL);
    pmix_info_t* results = NULL;
    size_t count = 0;
    const pmix_status_t status = PMIx_Job_control(&target, 1, &directive, 1, &results, &count);
    require(status == PMIX_SUCCESS || status == PMIX_OPERATION_SUCCEEDED, "job_control", status);
  }
  for (;;) pause();
}

int main(int argc, char** argv) {
  const pmix_status_t status = PMIx_Init(&me, NULL, 0);
  require(status == PMIX_SUCCESS, "init", status);
  if (argc > 1 && strcmp(argv[1], "kill") == 0) kill_other();
  if (argc > 2 && strcmp(argv[1], "fences") == 0) {
    many_fences(atoi(argv[2]));
    PMIx_Finalize(NULL, 0);
    return 0;
  }
  const bool apart = argc > 1 && strcmp(argv[1], "apart") == 0;  // in different pods
  try_publish();
  try_wait();
  if (!apart) try_events();
  if (apart) try_direct_modex();
  try_query();
  if (me.rank == 0) try_log();
  try_unsupported();
  fence();
  printf("rank %u: ok\n", me.rank);
  fflush(stdout);
  PMIx_Finalize(NULL, 0);
  return 0;
}
