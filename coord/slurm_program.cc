#include "coord/slurm_program.h"

#include <string>

#include "slurm/client.h"

namespace fermata::coord {

Result<SlurmJob> SlurmProgram::job(uint64_t number, std::chrono::milliseconds within) {
  FERMATA_ASSIGN(const nlohmann::json answer, ask_slurm({"state", std::to_string(number)}, within));
  SlurmJob job;
  job.running = answer.value("state", "") == "running";
  job.batch = answer.value("batch", false);
  job.requeue = answer.value("requeue", false);
  job.start = std::chrono::system_clock::from_time_t(answer.value("start", std::time_t{0}));
  if (const auto end = answer.value("end", std::time_t{0}); end != 0) {
    job.end = std::chrono::system_clock::from_time_t(end);
  }
  if (const auto at = answer.value("preempted_at", std::time_t{0}); at != 0) {
    job.preempted = std::chrono::system_clock::from_time_t(at);
  }
  job.preemption_requeues = answer.value("preemption_requeues", false);
  job.steps = answer.value("steps", std::vector<uint32_t>{});
  return job;
}

Result<bool> SlurmProgram::preempts(std::chrono::milliseconds within) {
  FERMATA_ASSIGN(const nlohmann::json answer, ask_slurm({"preemption", "cluster"}, within));
  return answer.value("preempts", true);
}

Status SlurmProgram::requeue(uint64_t number) {
  const Result<nlohmann::json> answer =
      ask_slurm({"requeue", std::to_string(number)}, kSlurmPatience);
  return answer ? Status::ok() : answer.error();
}

}  // namespace fermata::coord
