#include "node-agent/pod/podinit/rank_environment.h"

#include <gmock/gmock.h>

namespace fermata::pod {
namespace {

using ::testing::Contains;
using ::testing::Not;
using ::testing::StartsWith;

const RankPlace kPlace{{7, 1}, 2, 4, 2, 4, 1, 8};

TEST(RankEnvironmentTest, Environment_HasTheRanksPlace) {
  const auto environment = rank_environment({"HOME=/home/a"}, kPlace);
  for (const char* entry :
       {"HOME=/home/a", "FERMATA_JOB_ID=7", "FERMATA_STEP_ID=1", "FERMATA_RANK=2",
        "FERMATA_NTASKS=4", "OMPI_MCA_pml=ob1", "OMPI_MCA_btl=self,vader", "PMIX_MCA_gds=hash"}) {
    EXPECT_THAT(environment, Contains(entry));
  }
}

TEST(RankEnvironmentTest, UsersSettings_Win) {
  const auto environment = rank_environment(
      {"OMPI_MCA_btl=self,tcp", "OMPI_MCA_mpi_yield_when_idle=0"}, {{7, 1}, 0, 9, 0, 9, 1, 8});
  EXPECT_THAT(environment, Contains("OMPI_MCA_btl=self,tcp"));
  EXPECT_THAT(environment, Not(Contains("OMPI_MCA_btl=self,vader")));
  EXPECT_THAT(environment, Contains("OMPI_MCA_mpi_yield_when_idle=0"));
  EXPECT_THAT(environment, Not(Contains("OMPI_MCA_mpi_yield_when_idle=1")));
}

TEST(RankEnvironmentTest, Ranks_YieldWhenIdle_OnlyWhenMoreThanCores) {
  const std::string yield = "OMPI_MCA_mpi_yield_when_idle=1";
  EXPECT_THAT(rank_environment({}, {{1, 0}, 0, 8, 0, 8, 1, 8}), Not(Contains(yield)));
  EXPECT_THAT(rank_environment({}, {{1, 0}, 0, 9, 0, 9, 1, 8}), Contains(yield));
  // Those of other pods have cores of their own.
  EXPECT_THAT(rank_environment({}, {{1, 0}, 0, 9, 0, 3, 3, 8}), Not(Contains(yield)));
}

TEST(RankEnvironmentTest, PodsOfAStep_TalkByTcp_AndKnowTheirLocalRanks) {
  const auto environment = rank_environment({}, {{1, 0}, 5, 8, 1, 4, 2, 8});
  EXPECT_THAT(environment, Contains("OMPI_MCA_btl=self,vader,tcp"));
  EXPECT_THAT(environment, Contains("FERMATA_RANK=5"));
  EXPECT_THAT(environment, Contains("FERMATA_LOCAL_RANK=1"));
  EXPECT_THAT(environment, Contains("FERMATA_NTASKS=8"));
}

TEST(RankEnvironmentTest, ForeignLaunchers_AreForgotten) {
  const auto environment = rank_environment(
      {"PMIX_RANK=3", "PMIX_NAMESPACE=other", "PMIX_SERVER_URI41=x", "OMPI_COMM_WORLD_RANK=3",
       "OMPI_MCA_ess=singleton", "OMPI_MCA_orte_hnp_uri=x", "OMPI_MCA_pmix=^s1",
       "OMPI_UNIVERSE_SIZE=9", "PMI_RANK=3", "SLURM_PMIX_MAPPING_SERV=x", "FERMATA_RANK=9",
       "OMPI_MCA_pml_base_verbose=1", "PMIX_MCA_gds=ds21"},
      kPlace);
  for (const char* prefix : {"PMIX_RANK=", "PMIX_NAMESPACE=", "PMIX_SERVER_URI", "OMPI_COMM_",
                             "OMPI_MCA_ess=", "OMPI_MCA_orte_", "OMPI_MCA_pmix=",
                             "OMPI_UNIVERSE_SIZE=", "PMI_", "SLURM_PMIX", "FERMATA_RANK=9"}) {
    EXPECT_THAT(environment, Not(Contains(StartsWith(prefix))));
  }
  EXPECT_THAT(environment, Contains("OMPI_MCA_pml_base_verbose=1"));
  EXPECT_THAT(environment, Contains("PMIX_MCA_gds=ds21"));
}

TEST(RankEnvironmentTest, OpenMpi_FindsALauncher_InsideAndOutsideOfSlurm) {
  EXPECT_THAT(rank_environment({}, kPlace), Contains("JSM_JSRUN_PORT=1"));
  // With a job and no step Open MPI would start singletons (a batch script has that).
  EXPECT_THAT(rank_environment({"SLURM_JOBID=9", "SLURM_NODELIST=a"}, kPlace),
              Contains("SLURM_STEP_ID=1"));
  EXPECT_THAT(rank_environment({"SLURM_JOBID=9", "SLURM_STEP_ID=4"}, kPlace),
              Contains("SLURM_STEP_ID=4"));
  EXPECT_THAT(rank_environment({}, kPlace), Not(Contains(StartsWith("SLURM_"))));
}

TEST(RankEnvironmentTest, SetVariable_ReplacesEveryOccurrence) {
  std::vector<std::string> environment{"A=1", "AB=2", "A=3"};
  set_variable(environment, "A", "4");
  EXPECT_THAT(environment, testing::ElementsAre("AB=2", "A=4"));
}

}  // namespace
}  // namespace fermata::pod
