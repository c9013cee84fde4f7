// fermata-slurm: what the fermata command asks of Slurm. Not for people: see README.md.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pwd.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "slurm/connection.h"
#include "slurm/preemption.h"

namespace fermata::slurm {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

Result<uint32_t> job_number(const std::string& text) {
  uint32_t number = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  if (read.ec == std::errc() && read.ptr == text.data() + text.size() && number > 0) return number;
  return failure(Code::kUsage, text + ": a job's number is expected");
}

Result<json> set_nodes(const Words& nodes, uint32_t state, std::string reason) {
  if (nodes.empty()) return failure(Code::kUsage, "no node is named");
  std::string names = fmt::format("{}", fmt::join(nodes, ","));
  update_node_msg_t update;
  slurm_init_update_node_msg(&update);
  update.node_names = names.data();
  update.node_state = state;
  if (!reason.empty()) {
    update.reason = reason.data();
    update.reason_uid = getuid();
  }
  if (slurm_update_node(&update) != SLURM_SUCCESS) return Failure(failed("node " + names));
  return json{{"nodes", nodes}};
}

std::string state_name(uint32_t state) {
  switch (state & JOB_STATE_BASE) {
    case JOB_PENDING:
      return "pending";
    case JOB_RUNNING:
      return "running";
    case JOB_SUSPENDED:
      return "suspended";
    default:
      return "ended";
  }
}

bool preempted(const slurm_job_info_t& job) {
  return job.preempt_time != 0 && (job.job_state & JOB_STATE_BASE) == JOB_RUNNING;
}

bool has_end(const slurm_job_info_t& job) {
  return preempted(job) || (job.time_limit != INFINITE && job.time_limit != NO_VAL);
}

json to_json(const slurm_job_info_t& job) {
  const passwd* user = getpwuid(job.user_id);
  return {{"job", job.job_id},
          {"user", user != nullptr ? user->pw_name : std::to_string(job.user_id)},
          {"name", job.name != nullptr ? job.name : ""},
          {"state", state_name(job.job_state)},
          {"nodes", expand(job.nodes)},
          {"requeue", job.requeue != 0},
          {"batch", job.batch_flag != 0},
          {"restarts", job.restart_cnt},
          {"start", job.start_time},
          {"preempted_at", preempted(job) ? job.preempt_time : 0},
          // Without a limit Slurm names a day that is a year away.
          {"end", has_end(job) ? job.end_time : 0}};
}

/// Of a step's number: a member of its own, and then one of a struct (20.11).
template <typename Step>
uint32_t number_of(const Step& step) {
  if constexpr (requires { step.step_id.step_id; }) {
    return step.step_id.step_id;
  } else {
    return step.step_id;
  }
}

struct FreeSteps {
  void operator()(job_step_info_response_msg_t* steps) const {
    slurm_free_job_step_info_response_msg(steps);
  }
};

/// Numbers of its running steps: those of srun, not the script itself.
Result<std::vector<uint32_t>> steps_of(uint32_t job) {
  job_step_info_response_msg_t* raw = nullptr;
  if (slurm_get_job_steps(0, job, NO_VAL, &raw, SHOW_ALL) != SLURM_SUCCESS) {
    return Failure(failed(fmt::format("steps of job {}", job)));
  }
  const std::unique_ptr<job_step_info_response_msg_t, FreeSteps> loaded(raw);
  std::vector<uint32_t> steps;
  for (const auto& step : std::span(loaded->job_steps, loaded->job_step_count)) {
    const uint32_t number = number_of(step);
    const uint32_t state = step.state & JOB_STATE_BASE;
    if (number < SLURM_MAX_NORMAL_STEP_ID && (state == JOB_RUNNING || state == JOB_SUSPENDED)) {
      steps.push_back(number);
    }
  }
  return steps;
}

struct FreeJobs {
  void operator()(job_info_msg_t* jobs) const { slurm_free_job_info_msg(jobs); }
};

/// Those that have nodes among `nodes`.
Result<json> jobs_on(const Words& nodes) {
  job_info_msg_t* raw = nullptr;
  if (slurm_load_jobs(0, &raw, SHOW_ALL) != SLURM_SUCCESS) return Failure(failed("its jobs"));
  const std::unique_ptr<job_info_msg_t, FreeJobs> loaded(raw);
  json jobs = json::array();
  for (const slurm_job_info_t& job : std::span(loaded->job_array, loaded->record_count)) {
    const std::string state = state_name(job.job_state);
    if (state != "running" && state != "suspended") continue;
    const Words on = expand(job.nodes);
    const bool here = std::any_of(on.begin(), on.end(), [&](const std::string& node) {
      return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
    });
    if (here) jobs.push_back(to_json(job));
  }
  return json{{"jobs", jobs}};
}

/// `steps`: also where it is not preempted.
Result<json> one_job(const std::string& text, bool steps) {
  FERMATA_ASSIGN(const uint32_t number, job_number(text));
  job_info_msg_t* raw = nullptr;
  if (slurm_load_job(&raw, number, SHOW_ALL) != SLURM_SUCCESS) {
    return Failure(failed("job " + text));
  }
  const std::unique_ptr<job_info_msg_t, FreeJobs> loaded(raw);
  if (loaded->record_count == 0) return failure(Code::kNotFound, "Slurm has no job " + text);
  json job = to_json(loaded->job_array[0]);
  const bool preempted = job["preempted_at"] != 0;
  if (preempted || (steps && (job["state"] == "running" || job["state"] == "suspended"))) {
    FERMATA_ASSIGN(job["steps"], steps_of(number));
  }
  if (preempted) {
    const char* partition = loaded->job_array[0].partition;
    FERMATA_ASSIGN(job["preemption_requeues"],
                   preemption_requeues(partition == nullptr ? "" : partition));
  }
  return job;
}

Result<json> requeue(const std::string& text) {
  FERMATA_ASSIGN(const uint32_t number, job_number(text));
  if (slurm_requeue(number, 0) != SLURM_SUCCESS) return Failure(failed("requeue of job " + text));
  return json{{"job", number}};
}

Result<json> cancel(const std::string& text) {
  FERMATA_ASSIGN(const uint32_t number, job_number(text));
  if (slurm_kill_job(number, SIGKILL, 0) != SLURM_SUCCESS) {
    return Failure(failed("end of job " + text));
  }
  return json{{"job", number}};
}

Result<json> carry_out(Words words) {
  if (words.size() < 2) {
    return failure(
        Code::kUsage,
        "fermata-slurm drain REASON NODE... | undrain NODE... | jobs NODE... | job JOB | "
        "state JOB | preemption cluster | requeue JOB | cancel JOB; `fermata drain` and its kin "
        "are for people");
  }
  const std::string request = words.front();
  words.erase(words.begin());
  const Connection connection;
  if (request == "undrain") return set_nodes(words, NODE_RESUME, "");
  if (request == "jobs") return jobs_on(words);
  if (request == "job") return one_job(words.front(), true);
  if (request == "state") return one_job(words.front(), false);
  if (request == "preemption") {
    FERMATA_ASSIGN(const bool preempts, cluster_preempts());
    return json{{"preempts", preempts}};
  }
  if (request == "requeue") return requeue(words.front());
  if (request == "cancel") return cancel(words.front());
  if (request == "drain") {
    std::string reason = words.front();
    words.erase(words.begin());
    return set_nodes(words, NODE_STATE_DRAIN, std::move(reason));
  }
  return failure(Code::kUsage, "fermata-slurm: no request \"" + request + "\"");
}

}  // namespace
}  // namespace fermata::slurm

int main(int argc, char** argv) {
  using fermata::Code;
  const auto done = fermata::slurm::carry_out({argv + std::min(argc, 1), argv + argc});
  const auto print = [](const nlohmann::json& value) {
    std::puts(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  };
  if (done) {
    print(*done);
    return 0;
  }
  print({{"error", done.error().message()}, {"code", static_cast<int>(done.error().code())}});
  return fermata::exit_code_of(done.error().code());
}
