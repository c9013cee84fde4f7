// Open MPI and PMIx clients under podinit, with no mpirun.
#include <signal.h>

#include <chrono>
#include <regex>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

using ::testing::HasSubstr;

class MpiTest : public PodFixture {
 protected:
  PodSpec mpi(std::vector<std::string> command, uint32_t ranks) {
    command[0] = program(command[0]);
    PodSpec spec = as_nobody(spec_of(std::move(command)));
    spec.ranks = ranks;
    // In a build with AddressSanitizer: what Open MPI and libpmix leave unfreed at exit is theirs.
    spec.environment.emplace_back("ASAN_OPTIONS=detect_leaks=0");
    return spec;
  }

  static std::string result_line(const std::string& out) {
    std::smatch match;
    const std::regex line("[a-z_]+: ranks [0-9]+ iterations [0-9]+ result [0-9a-f]{16}\n");
    return std::regex_search(out, match, line) ? match.str() : "";
  }
};

TEST_F(MpiTest, Ring_GivesTheSameResult_EveryTime) {
  const Finished first = run(mpi({"mpi/ring", "50"}, 4));
  EXPECT_EQ(first.status, 0) << first.err;
  EXPECT_THAT(result_line(first.out), HasSubstr("ring: ranks 4 iterations 50 "));
  const Finished second = run(mpi({"mpi/ring", "50", "200"}, 4));
  EXPECT_EQ(result_line(second.out), result_line(first.out));
}

TEST_F(MpiTest, Ring_Runs_FromOneToEightRanks) {
  for (const uint32_t ranks : {1U, 2U, 8U}) {
    const Finished finished = run(mpi({"mpi/ring", "20"}, ranks));
    EXPECT_EQ(finished.status, 0) << finished.err;
    EXPECT_THAT(result_line(finished.out), HasSubstr("ranks " + std::to_string(ranks)));
  }
}

TEST_F(MpiTest, Abort_GivesItsCode) {
  const Finished finished = run(mpi({"mpi/ends", "abort", "42"}, 4));
  EXPECT_EQ(finished.status, 42);
  EXPECT_THAT(finished.err, HasSubstr("rank 3 aborted the job with status 42"));
}

TEST_F(MpiTest, Job_Ends_WhenARankDiesOfASignal) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished finished = run(mpi({"mpi/ends", "signal", std::to_string(SIGKILL)}, 4));
  EXPECT_EQ(finished.status, 128 + SIGKILL);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(50));
}

TEST_F(MpiTest, Job_Ends_WhenARankExitsWithoutFinalize) {
  const Finished failed = run(mpi({"mpi/ends", "exit", "9"}, 3));
  EXPECT_EQ(failed.status, 9);
  EXPECT_THAT(failed.err, HasSubstr("rank 2 ended with status 9 and without MPI_Finalize"));
  // Its peers wait for it forever: that is no success, whatever it says.
  EXPECT_EQ(run(mpi({"mpi/ends", "exit", "0"}, 3)).status, 1);
}

TEST_F(MpiTest, Job_Ends_WhenTheMpiProcessBehindAScriptDies) {
  PodSpec spec = mpi({"mpi/ends", "signal", std::to_string(SIGKILL)}, 2);
  spec.command = {"/bin/sh", "-c", spec.command[0] + " signal 9; sleep 60"};
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_NE(run(spec).status, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(50));
}

TEST_F(MpiTest, Job_HasTheHighestStatus_OfRanksThatFinalized) {
  EXPECT_EQ(run(mpi({"mpi/ends", "after", "10"}, 3)).status, 12);
}

TEST_F(MpiTest, Mpi_Works_InTheEnvironmentOfAnotherLauncher) {
  PodSpec spec = mpi({"mpi/ring", "5"}, 2);
  for (const char* entry :
       {"SLURM_JOBID=77", "SLURM_NODELIST=elsewhere", "SLURM_PROCID=0", "PMIX_RANK=5",
        "PMIX_NAMESPACE=other", "PMIX_SERVER_URI41=other;tcp4://127.0.0.1:1",
        "OMPI_COMM_WORLD_RANK=5", "OMPI_MCA_ess=singleton"}) {
    spec.environment.emplace_back(entry);
  }
  const Finished finished = run(spec);
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_THAT(result_line(finished.out), HasSubstr("ranks 2"));
}

TEST_F(MpiTest, Server_AnswersWhatPmixClientsAsk) {
  const Finished finished = run(mpi({"pmix_client"}, 2));
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("rank 0: ok\n"));
  EXPECT_THAT(finished.out, HasSubstr("rank 1: ok\n"));
  EXPECT_THAT(finished.out, HasSubstr("logged\n"));
}

TEST_F(MpiTest, JobControl_KillsARank_AndSoTheJob) {
  EXPECT_EQ(run(mpi({"pmix_client", "kill"}, 2)).status, 128 + SIGKILL);
}

}  // namespace
}  // namespace fermata::pod
