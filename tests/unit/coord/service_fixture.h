// The service on three pretended nodes, with a checkpoint folder and a store of its own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <future>
#include <memory>

#include "coord/service.h"
#include "proto/outcome.h"
#include "tests/support/scratch_folder.h"
#include "tests/unit/coord/fake_fleet.h"

namespace fermata::coord {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::UnorderedElementsAre;

class ServiceTest : public testing::Test {
 protected:
  static constexpr std::chrono::seconds kPatience{30};

  ServiceTest() {
    options_.job.kill_after = std::chrono::milliseconds(200);
    options_.job.node_grace = std::chrono::milliseconds(200);
    options_.job.deadlines.ending = std::chrono::seconds(1);
  }
  ~ServiceTest() override { stop(); }

  /// Begins anew, as after a crash of the coordinator; agents are to be attached again.
  void start() {
    stop();
    store_ = *Store::open(scratch_ / "state");
    service_ = std::make_unique<Service>(fleet_, *store_, options_);
    ASSERT_TRUE(service_->adopt());
    fleet_.set_listener(service_.get());
  }
  void start_with_nodes() {
    start();
    for (const char* node : {"n1", "n2", "n3"}) fleet_.attach(node);
  }
  void stop() {
    fleet_.set_listener(nullptr);
    service_.reset();
    store_.reset();
  }

  Caller me() const { return {getuid(), getgid(), getuid() == 0}; }

  wire::RunRequest program(uint32_t ranks, uint32_t nodes) const {
    wire::RunRequest request;
    request.set_ranks(ranks);
    request.set_node_count(nodes);
    request.add_command("lmp");
    request.set_working_directory(scratch_.path());
    request.set_checkpoint_dir(sets());
    return request;
  }
  std::string sets() const { return scratch_ / "sets"; }

  /// Asks and waits for the answer.
  template <typename Reply, typename Call>
  static Reply answer(Call call) {
    auto promise = std::make_shared<std::promise<Reply>>();
    std::future<Reply> reply = promise->get_future();
    call([promise](Reply got) { promise->set_value(std::move(got)); });
    if (reply.wait_for(kPatience) != std::future_status::ready) {
      ADD_FAILURE() << "no answer";
      return {};
    }
    return reply.get();
  }
  wire::RunReply run(const wire::RunRequest& request) {
    return answer<wire::RunReply>([&](auto respond) { service_->run(me(), request, respond); });
  }
  wire::RunReply restart(const wire::RestartRequest& request) {
    return answer<wire::RunReply>([&](auto respond) { service_->restart(me(), request, respond); });
  }
  wire::WaitReply wait(uint64_t job) {
    wire::JobRequest request;
    request.set_job(job);
    return answer<wire::WaitReply>([&](auto respond) { service_->wait(me(), request, respond); });
  }
  wire::CheckpointReply checkpoint(uint64_t job, bool end_job = false,
                                   const std::string& compress = "") {
    wire::CheckpointRequest request;
    request.set_job(job);
    request.set_end_job(end_job);
    request.set_compress(compress);
    return answer<wire::CheckpointReply>(
        [&](auto respond) { service_->checkpoint(me(), request, respond); });
  }
  wire::AbleReply able(uint64_t job) {
    wire::JobRequest request;
    request.set_job(job);
    return answer<wire::AbleReply>([&](auto respond) { service_->able(me(), request, respond); });
  }
  std::vector<wire::JobInfo> jobs() {
    const auto reply =
        answer<wire::JobsReply>([&](auto respond) { service_->jobs(me(), respond); });
    return {reply.jobs().begin(), reply.jobs().end()};
  }
  uint32_t used_slots() {
    const auto reply =
        answer<wire::NodesReply>([&](auto respond) { service_->nodes(me(), respond); });
    uint32_t used = 0;
    for (const wire::NodeInfo& node : reply.nodes()) used += node.used();
    return used;
  }
  /// A job of 3 pods with 2 ranks each.
  uint64_t running_job() {
    const wire::RunReply reply = run(program(6, 3));
    EXPECT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
    return reply.job();
  }
  static Status status_of(const wire::Outcome& outcome) { return wire::to_status(outcome); }
  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  ScratchFolder scratch_;
  FakeFleet fleet_;
  ServiceOptions options_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Service> service_;
};

}  // namespace fermata::coord
