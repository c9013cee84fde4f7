#include "node-agent/pod/podinit/rank_environment.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace fermata::pod {
namespace {

struct Setting {
  std::string_view name;
  std::string_view value;
};

// Defaults for Open MPI and the PMIx client in it: shared memory and, between pods, TCP: no device
// that bypasses the kernel, and all addresses exchanged at start, so that no lookup is under way at
// a later cut.
constexpr std::array<Setting, 9> kDefaults{{
    {"PMIX_MCA_gds", "hash"},
    {"PMIX_MCA_psec", "native"},
    {"PMIX_MCA_ptl_base_if_include", "lo"},
    {"OMPI_MCA_pml", "ob1"},
    {"OMPI_MCA_osc", "^ucx"},
    {"OMPI_MCA_shmem", "mmap"},
    {"OMPI_MCA_mpi_add_procs_cutoff", "65536"},
    {"OMPI_MCA_pmix_base_async_modex", "0"},
    {"OMPI_MCA_pmix_base_collect_data", "1"},
}};

// Set by mpirun (and its daemons) for its own ranks; settings of users live under OMPI_MCA_ too, so
// these go by name.
constexpr std::array<std::string_view, 5> kForeignMca{"OMPI_MCA_ess", "OMPI_MCA_orte_",
                                                      "OMPI_MCA_pmix=", "OMPI_MCA_initial_wdir",
                                                      "OMPI_MCA_shmem_RUNTIME_QUERY_hint"};
constexpr std::array<std::string_view, 6> kForeign{"PMIX_", "OMPI_",      "ORTE_",
                                                   "PMI_",  "SLURM_PMIX", "SLURM_PMI2"};

bool has_variable(const std::vector<std::string>& environment, std::string_view name) {
  return std::any_of(environment.begin(), environment.end(), [name](const std::string& entry) {
    return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
  });
}

bool is_foreign(const std::string& entry) {
  const auto begins = [&entry](std::string_view prefix) { return entry.starts_with(prefix); };
  if (std::any_of(kForeignMca.begin(), kForeignMca.end(), begins)) return true;
  if (begins("PMIX_MCA_") || begins("OMPI_MCA_")) return false;
  return begins("PRTE_LAUNCHED") || std::any_of(kForeign.begin(), kForeign.end(), begins);
}

void set_default(std::vector<std::string>& environment, std::string_view name,
                 std::string_view value) {
  if (!has_variable(environment, name)) {
    environment.push_back(std::string(name) + "=" + std::string(value));
  }
}

}  // namespace

void set_variable(std::vector<std::string>& environment, const std::string& name,
                  const std::string& value) {
  std::erase_if(environment,
                [&](const std::string& entry) { return entry.starts_with(name + "="); });
  environment.push_back(name + "=" + value);
}

std::vector<std::string> rank_environment(const std::vector<std::string>& user,
                                          const RankPlace& place) {
  std::vector<std::string> environment;
  std::copy_if(user.begin(), user.end(), std::back_inserter(environment),
               [](const std::string& entry) { return !is_foreign(entry); });
  for (const Setting& setting : kDefaults) set_default(environment, setting.name, setting.value);
  set_default(environment, "OMPI_MCA_btl", place.pods > 1 ? "self,vader,tcp" : "self,vader");
  if (place.local_ranks > place.usable_cores) {
    set_default(environment, "OMPI_MCA_mpi_yield_when_idle", "1");
  }
  // Open MPI 4 uses a PMIx server only where it knows the launcher; to anything else it starts as a
  // singleton. Of the launchers it knows, this sign (of IBM's jsrun) has the fewest other effects:
  // it takes the server, and binds nothing. Inside a Slurm job Open MPI looks for Slurm first, and
  // there for a step.
  set_variable(environment, "JSM_JSRUN_PORT", "1");
  if (has_variable(environment, "SLURM_JOBID")) {
    set_default(environment, "SLURM_STEP_ID", std::to_string(place.job.step));
  }
  set_variable(environment, "FERMATA_JOB_ID", std::to_string(place.job.job));
  set_variable(environment, "FERMATA_STEP_ID", std::to_string(place.job.step));
  set_variable(environment, "FERMATA_RANK", std::to_string(place.rank));
  set_variable(environment, "FERMATA_NTASKS", std::to_string(place.ranks));
  set_variable(environment, "FERMATA_LOCAL_RANK", std::to_string(place.local_rank));
  return environment;
}

}  // namespace fermata::pod
