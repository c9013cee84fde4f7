// Pods of the service without a coordinator: a test sends the orders and reads the answers. Real
// pods, so root is needed; one folder and one job number for each test, and nothing of it is left.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/pod_host.h"
#include "node-agent/set_phase.h"
#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {

/// A PodHost and what it said.
class TestHost {
 public:
  TestHost(const PodId& pod, const std::filesystem::path& run_dir);
  TestHost(const PodRecord& adopted, const std::filesystem::path& run_dir);
  TestHost(const TestHost&) = delete;
  TestHost& operator=(const TestHost&) = delete;

  PodHost& host() { return *host_; }
  /// Sends an order; its number.
  uint64_t send(wire::Order order);
  /// The answer to it; within a minute.
  wire::Done answer_to(uint64_t order);
  wire::Done ask(wire::Order order) { return answer_to(send(std::move(order))); }
  bool answered(uint64_t order) const;
  /// What over() said, within a minute: true when the host is through.
  bool wait_over();
  bool is_over() const;
  std::optional<wire::PodEnded> report() const;
  /// The host ends as with its agent.
  void end() { host_.reset(); }

 private:
  PodHostEvents events();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, wire::Done> answers_;
  bool over_ = false;
  std::optional<wire::PodEnded> report_;
  uint64_t next_ = 1;
  std::unique_ptr<PodHost> host_;
};

class HostTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  PodId pod(uint32_t number = 0, uint32_t start = 0) const { return {step_, number, start}; }
  std::unique_ptr<TestHost> make_host(const PodId& id) {
    return std::make_unique<TestHost>(id, run_dir());
  }
  std::filesystem::path run_dir() const { return folder_ / "run"; }
  std::filesystem::path set_folder(uint64_t crid) const;
  std::filesystem::path file(const std::string& name) const { return folder_ / name; }
  std::vector<PodRecord> records() const { return PodRegistry(run_dir()).all(); }
  std::filesystem::path group(uint32_t number = 0) const;

  wire::Order launch(const std::string& script, uint32_t pods = 1) const;
  static wire::Order phase(SetPhase phase, uint64_t crid, const std::filesystem::path& folder,
                           bool end_job = false);
  wire::Order restore(uint64_t crid, const wire::PodReport& image, uint32_t number = 0,
                      uint32_t pods = 1) const;
  /// restore() of one pod, whose memory comes later.
  wire::Order restore_lazily(uint64_t crid, const wire::PodReport& image) const;
  static wire::Order connect(const image::AddressMap& addresses);
  static wire::Order simple(const std::function<void(wire::Order&)>& fill);
  static wire::Order go();
  static wire::Order destroy();
  static wire::Order roll_back(uint64_t crid);

  /// All phases up to and including `last`; the last one's answer. `folder` is that of the set.
  wire::Done take_until(TestHost& host, SetPhase last, uint64_t crid, bool end_job = false);

  /// A script that counts in the file "count" for ever, and how far it is.
  std::string counter() const;
  long count() const;
  /// Whether it counts on.
  bool counts_on() const;
  /// Whether nothing is left of the pods: groups, records, part files.
  void expect_nothing_left(uint32_t pods = 1) const;

 private:
  ScratchFolder folder_;
  JobStep step_;
};

/// Waits until `condition` holds, at most half a minute.
bool eventually(const std::function<bool()>& condition);

}  // namespace fermata::node_agent
