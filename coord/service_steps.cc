// Slurm's steps as jobs: when every node of a step has offered its tasks, the step is launched, or
// restarted from a set, under Slurm's own numbers. Slurm has placed it; here nothing is chosen but
// the set.
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <ctime>

#include "common/compression.h"
#include "common/log.h"
#include "coord/launch.h"
#include "coord/service.h"
#include "coord/wire.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

/// What an earlier start of a step has until it is gone: SIGTERM, SIGKILL, and the way there.
constexpr std::chrono::seconds kOldStartPatience{60};
constexpr std::chrono::milliseconds kBetweenLooks{20};

/// One that Slurm ended, or that fell with a node, is continued; one that came to its own end has
/// nothing to be continued.
bool came_to_its_end(const stored::Job& record) {
  return record.state() == stored::Job::ENDED && record.sentence().empty() &&
         std::all_of(record.pods().begin(), record.pods().end(), [](const stored::Pod& pod) {
           return pod.ended() && pod.status_known() && WIFEXITED(pod.wait_status());
         });
}

/// Up to here, sets of the step are of a run that is over: this one does not go on from them.
uint64_t begun_after(const std::optional<ChosenSet>& set, JobStep step, const Coordinator& own,
                     const stored::Job* before) {
  if (set && set->manifest.job == step) return before == nullptr ? 0 : before->begun_after();
  const Result<ChosenSet> newest = own.choose(step, std::nullopt);
  return newest ? newest->manifest.crid.value : 0;
}

/// The job's groups need not be those that the user has by now, and its folder may be its groups'.
Result<Credentials> owner_of(const wire::StepOffer& offer) {
  FERMATA_ASSIGN(Credentials owner, credentials_of(std::to_string(offer.owner_uid())));
  if (owner.uid == 0 || offer.owner_gid() == 0) return owner;
  owner.gid = offer.owner_gid();
  owner.groups = {offer.owner_groups().begin(), offer.owner_groups().end()};
  return owner;
}

Result<Crid> crid_of(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0) {
    return failure(Code::kUsage, fmt::format("'{}' is no number of a checkpoint", text));
  }
  return Crid{value};
}

/// "0-2,5" of ascending numbers.
std::string list_of(const std::vector<uint32_t>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (!text.empty()) text += ',';
    text +=
        end - i == 1 ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[end - 1]);
    i = end;
  }
  return text;
}

/// How a step has to be started whose ranks lie in pods like this.
std::string wanted_layout(const std::vector<std::vector<uint32_t>>& pods) {
  constexpr size_t kMostNamed = 4;
  std::string text = "its pods have ";
  for (size_t i = 0; i < std::min(pods.size(), kMostNamed); ++i) {
    text += fmt::format("{}ranks {} on one node", i == 0 ? "" : " and ", list_of(pods[i]));
  }
  if (pods.size() > kMostNamed) text += fmt::format(" and so on, {} in all", pods.size());
  uint32_t next = 0;
  bool block = true;
  for (const std::vector<uint32_t>& ranks : pods) {
    for (const uint32_t rank : ranks) block = block && rank == next++;
    block = block && ranks.size() == pods.front().size();
  }
  if (block) {
    text += fmt::format(": start it with --ntasks-per-node={} --distribution=block",
                        pods.front().size());
  } else {
    text += ": start it with the distribution of tasks to nodes that it had";
  }
  return text;
}

}  // namespace

void Service::step_offered(const std::string& node, const wire::StepOffer& offer) {
  const PodId id = from_wire(offer.id());
  if (offer.withdrawn()) {
    const std::optional<StepBoard::Overdue> over = steps_.withdrawn(node, id);
    if (over && !over->offers.empty()) refuse(over->offers, over->refusal, Hearer::kFirst);
    return;
  }
  StepBoard::Answer answer;
  {
    const std::lock_guard lock(mutex_);
    // It has been begun, and the answer to that is under way.
    const auto job = jobs_.find(id.step);
    if (job != jobs_.end() && job->second->start() == id.start) return;
    answer = steps_.offered(node, offer);
  }
  if (const auto* refusal = std::get_if<Refusal>(&answer)) {
    return refuse({{id.pod, {node, offer}}}, *refusal, Hearer::kFirst);
  }
  auto* offers = std::get_if<StepOffers>(&answer);
  if (offers == nullptr) return;
  // Not started, when stopped: the agents offer it again to the coordinator that comes.
  [[maybe_unused]] const bool started =
      workers_.start([this, id, offers = std::move(*offers)](const std::stop_token& stop) {
        begin_step(id, offers, stop);
      });
}

void Service::begin_step(const PodId& id, const StepOffers& offers, const std::stop_token& stop) {
  const auto refused = [&](const Refusal& refusal, Hearer hearer) {
    steps_.refused(id, refusal);
    refuse(offers, refusal, hearer);
  };
  Result<StepPlan> plan = plan_step(id, offers, stop);
  if (!plan) {
    if (stop.stop_requested()) return;  // the next coordinator is offered it
    log_warning(fmt::format("Slurm's step {} does not begin: {}", to_string(id.step),
                            storage::printable(plan.error().message())));
    return refused({plan.error().message()}, Hearer::kFirst);
  }
  if (plan->had_finished) {
    log_info(fmt::format("step {} had finished with status {} and is not run again",
                         to_string(id.step), *plan->had_finished));
    return refused({"", *plan->had_finished}, Hearer::kFirst);
  }
  const Result<std::shared_ptr<Job>> job = start_step(*plan, stop);
  if (!job) {
    log_warning(fmt::format("Slurm's step {} does not begin: {}", to_string(id.step),
                            storage::printable(job.error().message())));
    // Where a pod had begun already nobody listens any more.
    return refused({job.error().message()}, Hearer::kAll);
  }
  steps_.begun(id);
  plan->claim.reset();
  tend(*job, stop);
}

void Service::refuse_overdue(const std::stop_token& stop) {
  while (const std::optional<StepBoard::Overdue> overdue = steps_.wait_overdue(stop)) {
    log_warning(storage::printable(overdue->refusal.text));
    refuse(overdue->offers, overdue->refusal, Hearer::kFirst);
  }
}

void Service::refuse(const StepOffers& offers, const Refusal& refusal, Hearer hearer) {
  for (const auto& [number, offer] : offers) {
    wire::Order order;
    *order.mutable_pod() = offer.offer.id();
    if (hearer == Hearer::kAll || number == offers.begin()->first) {
      order.mutable_refuse()->set_text(refusal.text);
    }
    order.mutable_refuse()->set_exit_status(refusal.exit_status);
    fleet_.send(offer.node, std::move(order), [](const Result<wire::Done>&) {});
  }
}

/// An earlier start of the step may still be here: a node that is lost is not given up at once.
Status Service::end_earlier_start(const PodId& id, const std::stop_token& stop) {
  const auto until = std::chrono::steady_clock::now() + kOldStartPatience;
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any never;
  while (!stop.stop_requested()) {
    const std::shared_ptr<Job> job = find(id.step);
    if (!job) return {};
    if (!job->record().slurm()) {
      return {Code::kConflict, fmt::format("job {} is one of `fermata run` here, and still runs",
                                           to_string(id.step))};
    }
    if (job->start() >= id.start) {
      return {Code::kConflict, fmt::format("start {} of step {} runs here, so start {} of it is "
                                           "none of Slurm's",
                                           job->start(), to_string(id.step), id.start)};
    }
    job->superseded(id.start);
    if (std::chrono::steady_clock::now() > until) {
      return {Code::kTimeout, fmt::format("start {} of step {} does not come to its end",
                                          job->start(), to_string(id.step))};
    }
    never.wait_for(lock, stop, kBetweenLooks, [] { return false; });
  }
  return {Code::kGone, "the coordinator is being stopped"};
}

/// The set it begins from; none: it begins anew.
Result<std::optional<ChosenSet>> Service::set_for_step(const wire::StepOffer& offer,
                                                       const Coordinator& coordinator,
                                                       const stored::Job* before) {
  const PodId id = from_wire(offer.id());
  const std::string& wish = offer.restart();
  if (wish == "never") return std::nullopt;
  // One that had finished runs again as it ran first.
  const bool over = before != nullptr && before->slurm() && came_to_its_end(*before);
  if (id.start > 0 && !over) {
    // A set of this very job, wherever its first start came from.
    const Coordinator own(std::filesystem::path(offer.checkpoint_dir()), coordinator.owner(),
                          &store_);
    Result<ChosenSet> set = own.choose(id.step, std::nullopt);
    // It was ended by a set that was to lie elsewhere.
    if (before != nullptr && before->killed() &&
        before->checkpoint_dir() != offer.checkpoint_dir() &&
        (!set || set->manifest.crid.value < before->last_crid())) {
      const Coordinator elsewhere(before->checkpoint_dir(), coordinator.owner(), &store_);
      set = elsewhere.choose(id.step, Crid{before->last_crid()});
    }
    const uint64_t after = before == nullptr ? 0 : before->begun_after();
    if (set && set->manifest.crid.value > after) return *std::move(set);
    if (!set && set.error().code() != Code::kNotFound) return Failure(set.error());
  }
  if (wish.empty()) return std::nullopt;
  std::optional<Crid> crid;
  if (wish != "latest") {
    FERMATA_ASSIGN(crid, crid_of(wish));
  }
  FERMATA_ASSIGN(ChosenSet set, coordinator.choose(std::nullopt, crid));
  return set;
}

/// Each pod of the set goes where Slurm has put the tasks of its ranks.
Status Service::place_step(const StepOffers& offers, stored::Job& record) {
  std::vector<std::string> node_of_rank(static_cast<size_t>(record.pod_of_rank_size()));
  for (const auto& [number, offer] : offers) {
    for (const uint32_t rank : offer.offer.ranks_here()) {
      if (rank < node_of_rank.size()) node_of_rank[rank] = offer.node;
    }
  }
  std::vector<std::vector<uint32_t>> ranks_of(static_cast<size_t>(record.pods_size()));
  for (int rank = 0; rank < record.pod_of_rank_size(); ++rank) {
    ranks_of[record.pod_of_rank(rank)].push_back(static_cast<uint32_t>(rank));
  }
  for (size_t pod = 0; pod < ranks_of.size(); ++pod) {
    std::string& node = *record.mutable_pods(static_cast<int>(pod))->mutable_node();
    node.clear();
    for (const uint32_t rank : ranks_of[pod]) {
      const std::string& here = node_of_rank[rank];
      if (node.empty()) node = here;
      if (node != here || here.empty()) return {Code::kUsage, wanted_layout(ranks_of)};
    }
  }
  return {};
}

Result<Service::StepPlan> Service::plan_step(const PodId& id, const StepOffers& offers,
                                             const std::stop_token& stop) {
  wire::StepOffer first = offers.begin()->second.offer;
  // From now on `fermata run` counts where Slurm does not.
  FERMATA_TRY_RESULT(store_.raise_job(kLastOfSlurm));
  FERMATA_TRY_RESULT(end_earlier_start(id, stop));
  FERMATA_ASSIGN(Credentials owner, owner_of(first));
  first.set_checkpoint_dir(with_user_name(first.checkpoint_dir(), owner.name));
  first.set_restart_dir(with_user_name(first.restart_dir(), owner.name));
  FERMATA_ASSIGN(const uint64_t before_end, before_end_of(first));
  auto coordinator = std::make_shared<Coordinator>(first.checkpoint_dir(), owner, &store_);
  const Coordinator from(first.restart_dir(), owner, &store_);
  std::optional<stored::Job> before = ended(id.step);
  if (before && before->owner_uid() != owner.uid) before.reset();
  FERMATA_TRY_RESULT(coordinator->make_folder());
  StepPlan plan;
  FERMATA_ASSIGN(Claim claimed, claim(id.step));
  plan.claim.emplace(std::move(claimed));
  if (const Status settled = coordinator->settle_attempts(id.step); !settled) {
    log_warning(fmt::format("{}: what earlier attempts left stays: {}", first.checkpoint_dir(),
                            storage::printable(settled.message())));
  }
  if (id.start > 0 && first.skip_done() && before && before->slurm() && came_to_its_end(*before)) {
    plan.had_finished = before->exit_status();
    return plan;
  }
  FERMATA_ASSIGN(plan.set, set_for_step(first, from, before ? &*before : nullptr));

  const std::optional<ChosenSet>& set = plan.set;
  stored::Job& record = plan.record;
  if (set) {
    FERMATA_TRY_RESULT(check_owner(*set, owner));
    FERMATA_ASSIGN(record, record_of(set->manifest, nullptr));
    if (record.pod_of_rank_size() != static_cast<int>(first.ranks())) {
      return failure(Code::kUsage,
                     fmt::format("checkpoint {} has {} ranks, the step {} tasks: start it with -n "
                                 "{}",
                                 set->manifest.crid.value, record.pod_of_rank_size(), first.ranks(),
                                 record.pod_of_rank_size()));
    }
  } else {
    for (uint32_t rank = 0; rank < first.ranks(); ++rank) record.add_pod_of_rank(0);
    for (const auto& [number, offer] : offers) {
      stored::Pod& pod = *record.add_pods();
      pod.set_known_as(offer.node);
      for (const uint32_t rank : offer.offer.ranks_here()) {
        if (rank < first.ranks()) record.set_pod_of_rank(static_cast<int>(rank), number);
      }
    }
    *record.mutable_command() = first.command();
    record.set_external_tcp(std::string(external_tcp_name(ExternalTcp::kRefuse)));
  }
  const Status placed = place_step(offers, record);
  if (!placed) {
    return Failure(set ? placed.within("checkpoint " + to_string(set->manifest.crid)) : placed);
  }
  record.set_job(id.step.job);
  record.set_step(id.step.step);
  record.set_start(id.start);
  record.set_slurm(true);
  record.set_owner_uid(owner.uid);
  record.set_owner(owner.name);
  record.set_owner_gid(owner.gid);
  *record.mutable_owner_groups() = {owner.groups.begin(), owner.groups.end()};
  record.set_checkpoint_dir(first.checkpoint_dir());
  record.set_interval_ms(first.interval_ms());
  if (check_compression(first.compress())) record.set_compress(first.compress());
  record.set_before_end_ms(before_end);
  if (before) record.set_longest_set_ms(before->longest_set_ms());
  record.set_started(std::time(nullptr));
  record.set_begun_after(begun_after(set, id.step, *coordinator, before ? &*before : nullptr));
  plan.coordinator = std::move(coordinator);
  plan.owner = std::move(owner);
  return plan;
}

Result<std::shared_ptr<Job>> Service::start_step(StepPlan& plan, const std::stop_token& stop) {
  const stored::Job& record = plan.record;
  const JobStep step = step_of(record);
  std::vector<std::string> nodes;
  std::vector<uint32_t> ranks(static_cast<size_t>(record.pods_size()), 0);
  for (const stored::Pod& pod : record.pods()) nodes.push_back(pod.node());
  for (const uint32_t pod : record.pod_of_rank()) ++ranks[pod];
  nodes_.adopt(step, nodes, ranks);
  auto job = std::make_shared<Job>(context(), record);
  enter(job);
  const Status begun = [&]() -> Status {
    FERMATA_TRY(store_.put(record));
    job->tell_routes();
    if (!plan.set) return launch(fleet_, record, {}, options_.launch, stop);
    FERMATA_ASSIGN_STATUS(const std::vector<std::string> notes,
                          coord::restart(fleet_, record, *plan.set, {}, options_.restart, stop));
    for (const std::string& note : notes) log_info(note);
    log_info(fmt::format("Slurm's step {}, start {}: continued from checkpoint {}", to_string(step),
                         record.start(), plan.set->manifest.crid.value));
    return {};
  }();
  if (!begun) {
    give_up(job, begun);
    return Failure(begun);
  }
  job->begun(std::move(plan.coordinator), std::move(plan.owner));
  return job;
}

}  // namespace fermata::coord
