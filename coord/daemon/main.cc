// fermata-coordd: the coordinator. One in a cluster; it tends the jobs of all nodes.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/daemon.h"
#include "common/log.h"
#include "common/munge.h"
#include "coord/server.h"
#include "coord/service.h"
#include "coord/slurm_program.h"
#include "coord/store.h"
#include "slurm/client.h"

namespace {

using namespace fermata;         // NOLINT(google-build-using-namespace): this file is the program
using namespace fermata::coord;  // NOLINT(google-build-using-namespace)

/// Each agent and each command that waits holds a descriptor: as many as the unit gives, where we
/// may have them (getrlimit(2)). No more: what we start inherits it, and may close each one.
void raise_descriptor_limit() {
  constexpr rlim_t kFew = 8192;
  constexpr rlim_t kMany = 131072;
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  const rlim_t wanted = std::min(files.rlim_max, kMany);
  const rlim_t before = std::exchange(files.rlim_cur, std::max(files.rlim_cur, wanted));
  if (before < wanted && setrlimit(RLIMIT_NOFILE, &files) != 0) files.rlim_cur = before;
  if (files.rlim_cur >= kFew) return;
  log_warning(
      fmt::format("at most {} files can be open here: each node, and each command that "
                  "waits, takes one; more need a higher limit (LimitNOFILE= of the unit, "
                  "ulimit -Hn of a shell)",
                  files.rlim_cur));
}

Status serve(const Config& config) {
  if (geteuid() != 0) {
    return {Code::kPermission,
            "fermata-coordd runs as root: it reads and writes checkpoint folders as their owners"};
  }
  raise_descriptor_limit();
  FERMATA_ASSIGN_STATUS(const UniqueFd signals, take_stop_signals());
  FERMATA_ASSIGN_STATUS(const std::unique_ptr<Store> store, Store::open(config.state_dir));
  ServerOptions server_options;
  server_options.listen = config.listen;
  FERMATA_ASSIGN_STATUS(server_options.admins, admins_of(config.slurm_user));
  MungeAuthenticator authenticator(munge_socket(config));
  ServiceOptions options;
  options.max_writers = config.max_writers;
  options.job.tree_arity = config.tree_arity;
  options.job.node_grace = config.node_grace;
  options.job.keep = config.keep_sets;
  options.job.preempt_sets = config.preempt_sets;
  options.job.track = config.track;
  options.job.full_every = config.full_every;

  SlurmProgram slurm;
  if (has_slurm()) options.slurm = &slurm;

  Server server(server_options, authenticator);
  Service service(server, *store, options);
  // Jobs first: agents that come find them.
  FERMATA_TRY(service.adopt());
  FERMATA_TRY(server.start(service, service));
  log_info(fmt::format("fermata-coordd " FERMATA_VERSION " listens on {}", config.listen));

  serve_until_stopped(signals);
  log_info("ends; jobs run on");
  // Sets under way are rolled back while the agents can still be told.
  service.stop();
  server.stop();
  return Status::ok();
}

}  // namespace

int main(int argc, char** argv) {
  Daemon daemon;
  daemon.name = "fermata-coordd";
  daemon.purpose = "Fermata's coordinator: tends the jobs of all nodes";
  daemon.serve = [](const Config& config) { return serve(config); };
  return daemon_main(argc, argv, daemon);
}
