// The service: what users and admins ask, done on the nodes of the fleet. It knows the jobs, hands
// on what happens at the agents, and starts the threads that wait. Thread-safe; requests and events
// return at once.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coord/fleet.h"
#include "coord/job.h"
#include "coord/node_table.h"
#include "coord/requests.h"
#include "coord/restart.h"
#include "coord/step_offers.h"
#include "coord/store.h"
#include "coord/workers.h"
#include "coord/writer_gate.h"

namespace fermata::coord {

struct ServiceOptions {
  JobOptions job;
  RestartDeadlines restart;
  Duration launch = std::chrono::minutes(1);
  /// Of a Slurm step for the tasks of its other nodes.
  Duration offers = std::chrono::minutes(5);
  /// Pods that write images at a time, over all jobs; 0: no limit.
  uint32_t max_writers = 0;
  SlurmControl* slurm = nullptr;  ///< not owned; null: there is no Slurm
};

class Service final : public Requests, public FleetListener {
 public:
  /// `fleet` and `store` are not owned and outlive this.
  Service(Fleet& fleet, Store& store, ServiceOptions options);
  /// As stop().
  ~Service() override;

  /// Before the first agent: takes up the jobs that the store knows. Those whose agents come back
  /// go on as if nothing had been.
  Status adopt();
  /// Sets under way are rolled back; jobs run on. From now on requests are refused.
  void stop();

  Result<wire::Welcome> agent_attached(const wire::Hello& hello) override;
  void agent_lost(const std::string& node) override;
  void pod_ended(const std::string& node, const wire::PodEnded& ended) override;
  void exchange(const std::string& node, const wire::ExchangeUp& message) override;

  void step_offered(const std::string& node, const wire::StepOffer& offer) override;
  void term_held(const std::string& node, const wire::TermHeld& held) override;

  void run(const Caller& caller, const wire::RunRequest& request,
           Respond<wire::RunReply> respond) override;
  void wait(const Caller& caller, const wire::JobRequest& request,
            Respond<wire::WaitReply> respond) override;
  void signal(const Caller& caller, const wire::SignalRequest& request,
              Respond<wire::SignalReply> respond) override;
  void checkpoint(const Caller& caller, const wire::CheckpointRequest& request,
                  Respond<wire::CheckpointReply> respond) override;
  void able(const Caller& caller, const wire::JobRequest& request,
            Respond<wire::AbleReply> respond) override;
  void restart(const Caller& caller, const wire::RestartRequest& request,
               Respond<wire::RunReply> respond) override;
  void jobs(const Caller& caller, Respond<wire::JobsReply> respond) override;
  void nodes(const Caller& caller, Respond<wire::NodesReply> respond) override;
  void control(const Caller& caller, const wire::ControlRequest& request,
               Respond<wire::ControlReply> respond) override;
  void requeue(const Caller& caller, const wire::RequeueRequest& request,
               Respond<wire::RequeueReply> respond) override;
  void drain(const Caller& caller, const wire::DrainRequest& request,
             Respond<wire::NodesReply> respond) override;

 private:
  /// A job that is ready to be tended, or why there is none.
  struct Begun {
    std::shared_ptr<Job> job;
    wire::RunReply reply;
  };

  // On a worker's thread (service_jobs.cc).
  Result<Begun> begin_run(const Caller& caller, const wire::RunRequest& request,
                          const std::stop_token& stop);
  Result<Begun> begin_restart(const Caller& caller, const wire::RestartRequest& request,
                              const std::stop_token& stop);
  // Slurm's steps (service_steps.cc).
  struct StepPlan;
  enum class Hearer { kFirst, kAll };
  void begin_step(const PodId& id, const StepOffers& offers, const std::stop_token& stop);
  /// What it is to be, when nothing of it is here any more.
  Result<StepPlan> plan_step(const PodId& id, const StepOffers& offers,
                             const std::stop_token& stop);
  Result<std::shared_ptr<Job>> start_step(StepPlan& plan, const std::stop_token& stop);
  Status end_earlier_start(const PodId& id, const std::stop_token& stop);
  Result<std::optional<ChosenSet>> set_for_step(const wire::StepOffer& offer,
                                                const Coordinator& coordinator,
                                                const stored::Job* before);
  static Status place_step(const StepOffers& offers, stored::Job& record);
  void refuse_overdue(const std::stop_token& stop);
  /// Tells their tasks that they will not begin; who of them hears why.
  void refuse(const StepOffers& offers, const Refusal& refusal, Hearer hearer);
  /// How long before the limit the last set of this step is to be committed; 0: it takes none.
  Result<uint64_t> before_end_of(const wire::StepOffer& offer);
  /// Requeues the job once all of its steps that run have taken their last set.
  Status last_set_taken(JobStep step);
  Status requeue_if_all_held(uint64_t number);
  /// Passes the SIGTERM of the steps of a preempted job on once all of them have taken their last
  /// set, or one could not; in the first case the job is requeued before. A step that gets no
  /// SIGTERM is waited for as long as one waits for Slurm's word.
  void term_settled(JobStep step, bool taken);
  enum class Stragglers { kWait, kGiveUp };
  void judge_terms(uint64_t number, Stragglers stragglers);
  Status requeue_preempted(uint64_t number);
  JobContext context();

  /// To its end, and then what it is restarted as, where that was asked for.
  void tend(std::shared_ptr<Job> job, const std::stop_token& stop);
  std::shared_ptr<Job> go_on(const stored::Job& ended, Requeued requeued,
                             const std::stop_token& stop);
  Status drain_nodes(const Caller& caller, const wire::DrainRequest& request);
  void give_up(const std::shared_ptr<Job>& job, const Status& status);
  void forget(const std::shared_ptr<Job>& job);

  void start_begin(const Caller& caller, const Respond<wire::RunReply>& respond,
                   std::function<Result<Begun>(const std::stop_token&)> begin);
  std::shared_ptr<Job> find(JobStep step) const;
  static Status may(const Caller& caller, JobStep step, uid_t owner_uid, const std::string& owner);
  /// The living job, if the caller may do something with it.
  Result<std::shared_ptr<Job>> job_of(const Caller& caller, JobStep step) const;
  /// The sole right to begin a start of a step, while it lives.
  class Claim {
   public:
    Claim(Service& service, JobStep step) : service_(&service), step_(step) {}
    Claim(Claim&& other) noexcept
        : service_(std::exchange(other.service_, nullptr)), step_(other.step_) {}
    Claim& operator=(Claim&&) = delete;
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim() {
      if (service_ != nullptr) service_->unclaim(step_);
    }
    JobStep step() const { return step_; }

   private:
    Service* service_;
    JobStep step_;
  };
  struct StepPlan {
    std::optional<Claim> claim;
    std::optional<int> had_finished;  ///< with this status, and it is not to run again
    stored::Job record;
    std::optional<ChosenSet> set;  ///< none: it begins anew
    std::shared_ptr<Coordinator> coordinator;
    Credentials owner;
  };
  /// kBusy: it runs, or is being begun.
  Result<Claim> claim(JobStep step);
  /// A number that no job has or had, for a new one.
  Result<Claim> claim_number(const Coordinator& coordinator);
  /// None: a job has it, or had it.
  std::optional<Claim> claim_unused(JobStep step);
  void unclaim(JobStep step);
  /// Counts a start; kBusy: this user has too many under way, each of which is a thread.
  Status enter_begin(const Caller& caller);
  void leave_begin(const Caller& caller);
  static Status still_runs(JobStep step);
  void enter(const std::shared_ptr<Job>& job);
  std::optional<stored::Job> ended(JobStep step) const;

  Fleet& fleet_;
  Store& store_;
  const ServiceOptions options_;
  NodeTable nodes_;
  WriterGate gate_;
  mutable std::mutex mutex_;
  std::map<JobStep, std::shared_ptr<Job>> jobs_;
  std::map<JobStep, stored::Job> ended_;
  std::set<JobStep> claimed_;
  StepBoard steps_;                 ///< Slurm's, that are not begun
  std::set<JobStep> held_for_end_;  ///< have taken their last set before the limit
  /// Of steps of preempted jobs, until they are forgotten: whether a last set was taken with which
  /// the job can still be requeued; false as well: the SIGTERM was passed on.
  std::map<JobStep, bool> terms_;
  std::map<uid_t, size_t> asked_by_;  ///< starts and restarts under way, by who asked
  Workers workers_;
  TermVerdicts verdicts_;
};

}  // namespace fermata::coord
