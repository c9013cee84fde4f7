#include "coord/slurm_program.h"

#include <string>

#include "slurm/client.h"

namespace fermata::coord {
namespace {

/// A job's thread waits for it.
constexpr std::chrono::seconds kPatience{30};

}  // namespace

Result<SlurmJob> SlurmProgram::job(uint64_t number) {
  FERMATA_ASSIGN(const nlohmann::json answer,
                 ask_slurm({"job", std::to_string(number)}, kPatience));
  SlurmJob job;
  job.running = answer.value("state", "") == "running";
  job.batch = answer.value("batch", false);
  job.requeue = answer.value("requeue", false);
  job.start = std::chrono::system_clock::from_time_t(answer.value("start", std::time_t{0}));
  if (const auto end = answer.value("end", std::time_t{0}); end != 0) {
    job.end = std::chrono::system_clock::from_time_t(end);
  }
  job.preempted = answer.value("preempted", false);
  job.preemption_requeues = answer.value("preemption_requeues", false);
  job.steps = answer.value("steps", std::vector<uint32_t>{});
  return job;
}

Status SlurmProgram::requeue(uint64_t number) {
  const Result<nlohmann::json> answer = ask_slurm({"requeue", std::to_string(number)}, kPatience);
  return answer ? Status::ok() : answer.error();
}

}  // namespace fermata::coord
