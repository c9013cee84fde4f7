// A coordinator's inside for tests of its server: records what happens at the agents and what is
// asked, and answers at once. Thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "coord/fleet.h"
#include "coord/requests.h"

namespace fermata::coord {

class CoordinatorDouble : public FleetListener, public Requests {
 public:
  /// Called in agent_attached(); its failure refuses the agent.
  std::function<Status(const wire::Hello&)> on_attached;
  /// Wait requests are kept here until the test answers them.
  std::vector<Respond<wire::WaitReply>> waiting;

  Result<wire::Welcome> agent_attached(const wire::Hello& hello) override {
    if (on_attached) FERMATA_TRY_RESULT(on_attached(hello));
    note("attached " + hello.node());
    return wire::Welcome();
  }
  void agent_lost(const std::string& node) override { note("lost " + node); }
  void pod_ended(const std::string& node, const wire::PodEnded& ended) override {
    note("ended " + node + " " + std::to_string(ended.id().job()));
  }
  void exchange(const std::string& node, const wire::ExchangeUp& message) override {
    note("exchange " + node + " " + std::to_string(message.pod().pod()));
  }

  void run(const Caller& caller, const wire::RunRequest& request,
           Respond<wire::RunReply> respond) override {
    note("run", caller, request.ranks());
    wire::RunReply reply;
    reply.set_job(7);
    respond(std::move(reply));
  }
  void wait(const Caller& caller, const wire::JobRequest& request,
            Respond<wire::WaitReply> respond) override {
    const std::lock_guard lock(mutex_);
    waiting.push_back(std::move(respond));
    note_locked(line("wait", caller, request.job()));
  }
  void signal(const Caller& caller, const wire::SignalRequest& request,
              Respond<wire::SignalReply> respond) override {
    note("signal", caller, request.job());
    respond({});
  }
  void checkpoint(const Caller& caller, const wire::CheckpointRequest& request,
                  Respond<wire::CheckpointReply> respond) override {
    note("checkpoint", caller, request.job());
    respond({});
  }
  void able(const Caller& caller, const wire::JobRequest& request,
            Respond<wire::AbleReply> respond) override {
    note("able", caller, request.job());
    respond({});
  }
  void restart(const Caller& caller, const wire::RestartRequest& request,
               Respond<wire::RunReply> respond) override {
    note("restart", caller, request.job());
    respond({});
  }
  void jobs(const Caller& caller, Respond<wire::JobsReply> respond) override {
    note("jobs", caller, 0);
    respond({});
  }
  void nodes(const Caller& caller, Respond<wire::NodesReply> respond) override {
    note("nodes", caller, 0);
    respond({});
  }
  void control(const Caller& caller, const wire::ControlRequest& request,
               Respond<wire::ControlReply> respond) override {
    note("control", caller, request.job());
    respond({});
  }
  void requeue(const Caller& caller, const wire::RequeueRequest& request,
               Respond<wire::RequeueReply> respond) override {
    note("requeue", caller, request.job());
    respond({});
  }
  void drain(const Caller& caller, const wire::DrainRequest& /*request*/,
             Respond<wire::NodesReply> respond) override {
    note("drain", caller, 0);
    respond({});
  }

  std::vector<std::string> events() {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  /// Waits until this has happened `times` times; false when it does not within half a minute.
  bool happened(const std::string& event, int times = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] {
      return std::count(events_.begin(), events_.end(), event) >= times;
    });
  }
  void answer_waiting(const wire::WaitReply& reply) {
    std::vector<Respond<wire::WaitReply>> all;
    {
      const std::lock_guard lock(mutex_);
      all.swap(waiting);
    }
    for (const auto& respond : all) respond(reply);
  }
  /// Drops what waits, unanswered.
  void forget_waiting() {
    std::vector<Respond<wire::WaitReply>> all;
    const std::lock_guard lock(mutex_);
    all.swap(waiting);
  }

  void note(const std::string& event) {
    const std::lock_guard lock(mutex_);
    note_locked(event);
  }

 private:
  static std::string line(const std::string& what, const Caller& caller, uint64_t number) {
    return what + " " + std::to_string(number) + " by " + std::to_string(caller.uid) +
           (caller.admin ? " admin" : "");
  }
  void note(const std::string& what, const Caller& caller, uint64_t number) {
    note(line(what, caller, number));
  }
  void note_locked(const std::string& event) {
    events_.push_back(event);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> events_;
};

}  // namespace fermata::coord
