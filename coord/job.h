// A job under the coordinator's care. What waits - sets, the job's end - is done on a thread of its
// own, in work(); everything else may be called from any thread and does not block.
//
// A job that loses a pod is ended everywhere: its other pods would wait for that one for ever.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/term_verdict.h"
#include "coord/coordinator.h"
#include "coord/end_plan.h"
#include "coord/exchange_board.h"
#include "coord/exchange_routes.h"
#include "coord/fleet.h"
#include "coord/node_table.h"
#include "coord/orders.h"
#include "coord/requests.h"
#include "coord/schedule.h"
#include "coord/slurm_control.h"
#include "coord/store.h"
#include "coord/term_verdicts.h"
#include "coord/writer_gate.h"

namespace fermata::coord {

struct JobOptions {
  Deadlines deadlines;
  /// A node whose agent is gone for so long has taken its pods with it.
  Duration node_grace = std::chrono::seconds(60);
  /// Between SIGTERM and SIGKILL.
  Duration kill_after = std::chrono::seconds(5);
  /// Agents that speak to one of them, or to the coordinator, for what pods exchange.
  size_t tree_arity = kTreeArity;
  /// Whether Slurm's jobs take a last set in the grace time of a preemption.
  bool preempt_sets = true;
  /// How long their SIGTERM is held back until it is known what it is for.
  Duration term_verdict = kTermVerdict;
  // Of jobs that do not say:
  uint32_t keep = storage::kKeptSets;  ///< newest sets that stay; 0: all
  std::string track = "none";          ///< JobDescription::track
  uint32_t full_every = kFullEvery;
};

/// What jobs work with. All of it outlives them.
struct JobContext {
  Fleet& fleet;
  NodeTable& nodes;
  Store& store;
  WriterGate& gate;
  JobOptions options;
  SlurmControl* slurm = nullptr;  ///< null: there is no Slurm
  /// A step has a set with which its job may be requeued; not ok: Slurm would not.
  std::function<Status(JobStep)> last_set_taken = nullptr;
  /// The last set in a grace time was taken, or was not; its SIGTERM waits to be passed on.
  std::function<void(JobStep, bool taken)> term_settled = nullptr;
  /// What Slurm says of a job that it sends SIGTERM; answered in time or not at all.
  std::function<void(uint64_t job, const TermVerdicts::Heard&)> ask_why = nullptr;
};

JobStep step_of(const stored::Job& record);
PodId pod_of(const stored::Job& record, uint32_t pod);
/// As a shell has it; -1: not known.
int exit_status_of(const stored::Pod& pod);
/// Of a job that has ended.
wire::WaitReply wait_reply_of(const stored::Job& record);

/// A job that has ended to be restarted: what for, who is to be told, and who waits for the job.
struct Requeued {
  wire::RequeueRequest request;
  wire::RequeueReply reply;  ///< so far
  Requests::Respond<wire::RequeueReply> respond;
  std::vector<Requests::Respond<wire::WaitReply>> waiting;
};

class Job : public std::enable_shared_from_this<Job> {
 public:
  Job(JobContext context, stored::Job record);
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  // What happens at the agents.
  void pod_ended(const wire::PodEnded& ended);
  void node_lost(const std::string& node);
  /// An agent came back and has these pods; on nodes of a job that was adopted, for the first time.
  void node_back(const std::string& node, std::span<const PodId> running);
  void exchange(const wire::ExchangeUp& message);

  // What is asked. Who asks was checked.
  void wait(Requests::Respond<wire::WaitReply> respond);
  /// Answered when every pod that runs has it, or cannot have it.
  void signal(int signo, Requests::Respond<wire::SignalReply> respond);
  void checkpoint(const wire::CheckpointRequest& request,
                  Requests::Respond<wire::CheckpointReply> respond);
  void able(Requests::Respond<wire::AbleReply> respond);
  wire::ControlReply control(wire::ControlRequest::Action action);
  static wire::ControlReply control_reply_of(const stored::Job& record);
  /// A set that ends the job; answered at once when it does not. When it does, requeued() has the
  /// request for whoever restarts the job, and those who wait for the job go on waiting.
  void requeue(const wire::RequeueRequest& request, Requests::Respond<wire::RequeueReply> respond);

  // job_last_set.cc
  /// Slurm's SIGTERM waits at this pod until it is passed on: now, or after a last set.
  void term_held(uint32_t pod);
  void pass_terms();
  /// Whether it waits at a pod.
  bool term_waits() const;

  JobStep step() const { return step_; }
  uint32_t start() const { return start_; }
  uid_t owner_uid() const { return owner_uid_; }
  /// Whether it takes a last set before its job's time limit.
  bool ends_early() const { return ends_early_; }
  /// Whether this pod of this start is on this node.
  bool has_pod(const PodId& pod, const std::string& node) const;
  wire::JobInfo info() const;
  stored::Job record() const;

  /// Slurm has begun this start of the step: ours is over wherever it still is.
  void superseded(uint32_t start);
  /// Before the pods are started: how their contributions travel.
  void tell_routes();
  /// The pods are not here yet: after the coordinator was started anew.
  void await_nodes();
  /// A set of this start that was committed when the coordinator died; `killed`: the last one, as
  /// it was asked for.
  void found_set(Crid crid, bool killed);
  /// All pods run: on disk when it returns. On the job's thread.
  void begun(std::shared_ptr<Coordinator> coordinator, Credentials owner);
  /// Tends the job until it has ended and that is on disk, or until `stop`: then the job runs on.
  void work(const std::stop_token& stop);
  /// It never ran, `status` is why; what there is of it is to be destroyed, then finish().
  void never_ran(const Status& status);
  /// It has ended: on disk when it returns, and whoever waits for it is told.
  void finish();
  /// After work(): whether the job is to be restarted now. Once.
  std::optional<Requeued> requeued();

 private:
  enum class State { kStarting, kRunning, kCheckpointing, kRestarting, kEnding, kEnded };
  /// Called with ok on the job's thread, or with why it will not be.
  using Task = std::function<void(const Status&)>;
  struct Ending {
    std::string why;
    int exit_status = 0;
  };
  struct Missing {
    Time until;
    std::string why;
  };

  /// Slurm's SIGTERM, as far as it is known here.
  struct Terms {
    std::set<uint32_t> pods;    ///< at which it waits
    Time since{};               ///< the first of them
    std::optional<Time> until;  ///< agents hold it; unset: nothing waits
    std::optional<Time> passed;
    std::optional<SlurmJob::Time> doubt;  ///< the last moment when a rank may have got one
    bool unexplained = false;             ///< it was passed on, and Slurm had not answered
    std::optional<SlurmJob::Time> grace;  ///< that a last set was thought of in, by its end
    std::optional<SlurmJob::Time> grace_began;
    std::optional<SlurmJob::Time> no_sets_until;  ///< but those that are asked for
  };

  /// How a set is wanted.
  struct Wish {
    bool end_job = false;
    std::string compress = {};                  ///< empty: as the job has it
    std::optional<uint32_t> keep = {};          ///< newest sets that stay then; unset: the job's
    std::chrono::milliseconds max_wait{0};      ///< 0: as long as it takes
    std::filesystem::path checkpoint_dir = {};  ///< empty: the job's
    bool asked_for = true;                      ///< by somebody: answered by control() later
    Time requested = Clock::steady().now();
  };

  enum class Turn { kLast, kNext };
  void ask(Task task, Turn turn = Turn::kLast);
  /// kBusy, with the mutex held: a set is being taken, or waits.
  Status idle() const;
  /// One more set is asked for; kBusy where it shall be the only one and is not.
  Status count_in(bool if_idle);
  Status enabled() const;
  void remember(const Status& status, const std::string& message);
  // With board_mutex_ held:
  void tell(std::vector<wire::ExchangeDown> messages);
  void lay_routes();
  void tell_route(const std::string& node, bool all_here);
  void forget_routes();
  // With mutex_ held:
  void judge_end(uint32_t pod, const std::string& reason);
  void end_because(std::string why, int exit_status);
  void look_for_lost_pods();
  std::optional<Time> wake_time() const;
  Status ready_for_set() const;
  void forget_terms();
  bool terms_held() const;
  void note_grace(const SlurmJob& job);
  /// How long a last set may take before the SIGTERM; nullopt: there is to be none.
  std::optional<std::chrono::milliseconds> time_for_last_set(const Result<SlurmJob>& job);
  /// From here on give_up_ is that of what begins now; kGone: nothing is to begin any more.
  Status begin_work();
  std::string wherefrom() const;
  int highest_status() const;
  std::string sentence() const;
  wire::WaitReply wait_reply() const;

  // Any thread.
  std::vector<Errand> term_errands(const std::set<uint32_t>& pods,
                                   std::chrono::milliseconds hold) const;
  void say_terms(const std::set<uint32_t>& pods, std::chrono::milliseconds hold);
  void heard_why(const Result<SlurmJob>& job);

  // On the job's thread.
  void save();
  TriedSet take_set(const Wish& wish);
  TriedSet attempt(const Wish& wish, const JobDescription& job, std::span<Agent* const> agents);
  void try_requeue(const wire::RequeueRequest& request, Time requested,
                   const Requests::Respond<wire::RequeueReply>& respond);
  /// No cut: of a connection that is closed between two looks one end may be seen alone; `judge`
  /// tells that from one that leaves the job, when it is asked again.
  wire::AbleReply ask_able(LeavingJudge& judge);
  bool end_pods(const std::stop_token& stop);
  std::vector<uint32_t> reachable_pods() const;
  /// After the SIGTERM was held back; false: there is none that the job could go on from.
  bool last_set_taken();
  /// Asks the agents whether they still hold what they were to hold.
  bool hold_confirmed();
  /// Whether the ranks were told to end by now: sets that nobody asks for are not taken then.
  bool winds_up();
  void plan_end();
  void note_duration(Duration took);
  void ask_for_limit();
  void follow_plan(EndPlan::Act act);

  const JobContext context_;
  const JobStep step_;
  const uint32_t start_;
  const uid_t owner_uid_;
  const bool ends_early_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  stored::Job record_;
  bool unsaved_ = false;
  State state_;
  std::unordered_map<std::string, std::vector<uint32_t>> pods_on_;  // by node; as made
  std::vector<std::string> node_of_;                                // by pod; as made
  std::vector<std::optional<Missing>> missing_;                     // by pod
  bool missing_changed_ = false;  // the thread may be waiting for a later moment
  size_t living_ = 0;
  bool exchanged_ = false;  // its ranks are an MPI job
  bool killing_ = false;    // by a set that ends the job
  bool killed_ = false;
  std::optional<Ending> ending_;
  std::optional<Requeued> requeued_;
  int64_t began_ = 0;         // of the set under way
  size_t sets_asked_ = 0;     // and not answered yet
  std::stop_source give_up_;  // of the set under way
  std::deque<Task> tasks_;
  std::vector<Requests::Respond<wire::WaitReply>> waiting_;
  std::string last_error_;
  bool unasked_ = false;           // the set under way
  std::optional<Time> committed_;  // the newest set of this start
  Terms terms_;

  /// Taken after mutex_, never before it; held while messages go out, so that they keep their
  /// order.
  std::mutex board_mutex_;
  ExchangeBoard board_;
  struct Laid {
    std::string relay;
    wire::ExchangeDown message;
  };
  std::unordered_map<std::string, Laid> routes_;  // by node

  // The job's thread's alone.
  std::shared_ptr<Coordinator> coordinator_;
  Credentials owner_;
  Schedule schedule_;
  std::optional<EndPlan> plan_;
  std::stop_token stop_;
};

}  // namespace fermata::coord
