// Sets of jobs on pretended nodes, and restarts from them.
#include <csignal>

#include "coord/service.h"
#include "coord/wire.h"
#include "storage/manifest.h"
#include "storage/sqlite.h"
#include "tests/unit/coord/service_fixture.h"

namespace fermata::coord {
namespace {

class SetsTest : public ServiceTest {
 protected:
  SetsTest() { start_with_nodes(); }
  storage::Manifest manifest(uint64_t job, uint64_t crid) const {
    return *storage::read_manifest(storage::set_folder(sets(), {job, 0}, {crid}));
  }
};

TEST_F(SetsTest, ASetHasAnImageOfEachPod) {
  const uint64_t job = running_job();
  const wire::CheckpointReply reply = checkpoint(job);
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  const storage::Manifest set = manifest(job, reply.crid());
  ASSERT_THAT(set.images, SizeIs(3));
  EXPECT_EQ(set.images[2].host, "n3");
  EXPECT_EQ(set.images[2].phases_ms, std::vector<double>(6, 1));
  EXPECT_THAT(set.pod_of_rank, ElementsAre(0, 0, 1, 1, 2, 2));
  EXPECT_THAT(reply.json(), HasSubstr("\"node\": \"n2\""));
  EXPECT_EQ(jobs()[0].last_crid(), reply.crid());
  EXPECT_GT(checkpoint(job).crid(), reply.crid());
}

TEST_F(SetsTest, PagesAreCompressedAsTheJobHasIt_UnlessASetSaysOtherwise) {
  wire::RunRequest request = program(1, 1);
  request.set_compress("lz4");
  const uint64_t job = run(request).job();
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_EQ(checkpoint(job, false, "zstd").outcome().code(), 0);
  EXPECT_EQ(status_of(checkpoint(job, false, "rar").outcome()).code(), Code::kUsage);
  std::vector<std::string> told;
  for (const wire::Order& order : fleet_.sent("n1")) {
    const bool prepare = order.has_phase() && order.phase().phase() == 0;
    if (prepare) told.push_back(order.phase().compress());
  }
  EXPECT_THAT(told, ElementsAre("lz4", "zstd"));
}

TEST_F(SetsTest, AFailureInAnyPhaseRollsAllBack_AndTheJobRunsOn) {
  const uint64_t job = running_job();
  for (const Phase phase : kPhases) {
    fleet_.set_trouble([&](const std::string& node, const wire::Order& order) {
      return node == "n2" && order.has_phase() &&
                     order.phase().phase() == static_cast<uint32_t>(phase)
                 ? std::optional(Status(Code::kStorage, "disk full"))
                 : std::nullopt;
    });
    const size_t before = fleet_.orders_with("roll back").size();
    const wire::CheckpointReply reply = checkpoint(job);
    EXPECT_EQ(status_of(reply.outcome()).code(), Code::kStorage);
    EXPECT_THAT(reply.outcome().message(),
                HasSubstr(std::string(phase_name(phase)) + " on n2: disk full"));
    EXPECT_EQ(fleet_.orders_with("roll back").size(), before + 3);
    EXPECT_FALSE(std::filesystem::exists(storage::set_folder(sets(), {job, 0}, {reply.crid()})));
  }
  fleet_.set_trouble(nullptr);
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(fleet_.pods(), SizeIs(3));
}

TEST_F(SetsTest, AbleSumsUp_OrNamesEveryObstacle) {
  const uint64_t job = running_job();
  const wire::AbleReply yes = able(job);
  EXPECT_EQ(yes.outcome().code(), 0) << yes.outcome().message();
  EXPECT_THAT(yes.json(), HasSubstr("\"processes\": 6"));
  fleet_.set_trouble([](const std::string& node, const wire::Order& order) {
    return order.has_able() && node != "n2"
               ? std::optional(Status(Code::kCannotHold, "process 4 has a lease"))
               : std::nullopt;
  });
  const wire::AbleReply no = able(job);
  EXPECT_EQ(status_of(no.outcome()).code(), Code::kCannotHold);
  EXPECT_EQ(no.outcome().message(), "on n1: process 4 has a lease\non n3: process 4 has a lease");
}

TEST_F(SetsTest, ConnectionThatLeavesTheJobIsRefused_OrKept) {
  image::OutsideConnection outside;
  outside.set_holder("process 12 (outside), fd 7");
  fleet_.set_connections({outside});
  const uint64_t job = running_job();
  EXPECT_THAT(able(job).outcome().message(), HasSubstr("process 12 (outside), fd 7 on n1"));
  EXPECT_EQ(status_of(checkpoint(job).outcome()).code(), Code::kCannotHold);
  wire::RunRequest request = program(3, 3);
  request.set_external_tcp("reset");
  const uint64_t other = run(request).job();
  EXPECT_EQ(checkpoint(other).outcome().code(), 0);
}

// Pods are looked at one after the other: one end of a connection that was closed meanwhile.
TEST_F(SetsTest, ConnectionThatIsSeenOnce_MakesNoJobUnable) {
  image::OutsideConnection outside;
  outside.set_holder("process 12 (outside), fd 7");
  outside.set_local(FakeFleet::address_of("n1", 40000));
  outside.set_remote(FakeFleet::address_of("n2", 5000));
  const uint64_t job = running_job();
  fleet_.set_connections({outside}, 1);
  const wire::AbleReply reply = able(job);
  EXPECT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_THAT(fleet_.orders_with("able"), SizeIs(6));
}

TEST_F(SetsTest, AnIntervalTakesSetsByItself) {
  wire::RunRequest request = program(3, 3);
  request.set_interval_ms(20);
  const uint64_t job = run(request).job();
  EXPECT_TRUE(eventually([&] { return jobs()[0].last_crid() >= 3; }));
  EXPECT_EQ(manifest(job, jobs()[0].last_crid()).result, "resumed");
}

class RestartTest : public SetsTest {
 protected:
  /// A job that was ended after a set.
  uint64_t ended_job() {
    const uint64_t job = running_job();
    crid_ = checkpoint(job, true).crid();
    const wire::WaitReply ended = wait(job);
    EXPECT_EQ(ended.exit_status(), 128 + SIGKILL);
    EXPECT_THAT(ended.sentence(), HasSubstr("was ended after checkpoint"));
    EXPECT_EQ(ended.last_crid(), crid_);
    EXPECT_TRUE(eventually([&] { return jobs().empty(); }));
    EXPECT_EQ(manifest(job, crid_).result, "killed");
    return job;
  }
  static wire::RestartRequest of(uint64_t job, const std::vector<std::string>& nodes = {}) {
    wire::RestartRequest request;
    request.set_job(job);
    for (const std::string& node : nodes) request.add_nodes(node);
    return request;
  }
  std::vector<std::string> steps_of_restart() const {
    std::vector<std::string> steps;
    for (const std::string& order : fleet_.orders()) {
      for (const char* step : {"restore", "connect", "go"}) {
        if (order.find(step) != std::string::npos) steps.emplace_back(step);
      }
    }
    return steps;
  }
  uint64_t crid_ = 0;
};

TEST_F(RestartTest, PodsComeBackWhereTheyWere_WithABarrierAfterEachStep) {
  const uint64_t job = ended_job();
  const wire::RunReply reply = restart(of(job));
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_EQ(reply.crid(), crid_);
  EXPECT_THAT(reply.nodes(), ElementsAre("n1", "n2", "n3"));
  EXPECT_THAT(reply.notes(), SizeIs(3));
  EXPECT_THAT(steps_of_restart(), ElementsAre("restore", "restore", "restore", "connect", "connect",
                                              "connect", "go", "go", "go"));
  EXPECT_THAT(fleet_.pods("n2"), ElementsAre(std::to_string(job) + ".0/1+1"));
  const std::vector<wire::Order> sent = fleet_.sent("n2");
  const wire::Order& connect = sent[sent.size() - 2];
  EXPECT_EQ(connect.connect().addresses().entries_size(), 0) << "of no known family";
  EXPECT_EQ(jobs()[0].start(), 1U);
  EXPECT_GT(checkpoint(job).crid(), crid_);
  EXPECT_EQ(status_of(restart(of(job)).outcome()).code(), Code::kBusy);
}

TEST_F(RestartTest, PodsGoWhereTheyAreSent_SeveralOnOneNode) {
  const uint64_t job = ended_job();
  const wire::RunReply reply = restart(of(job, {"n2", "n1", "n2"}));
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_THAT(reply.nodes(), ElementsAre("n2", "n1", "n2"));
  EXPECT_THAT(fleet_.pods("n2"), SizeIs(2));
  const uint64_t next = checkpoint(job, true).crid();
  EXPECT_EQ(manifest(job, next).images[0].host, "n2");
  EXPECT_EQ(manifest(job, next).images[0].known_as, "n1");
  wait(job);
  ASSERT_TRUE(eventually([&] { return jobs().empty(); }));
  ASSERT_EQ(restart(of(job)).outcome().code(), 0);
  const std::vector<wire::Order> sent = fleet_.sent("n1");
  EXPECT_THAT(sent.back().kind_case(), wire::Order::kGo);
  EXPECT_THAT(sent[sent.size() - 3].restore().shape().hosts(), ElementsAre("n1", "n2", "n3"));
}

TEST_F(RestartTest, NothingIsHalfAlive_WhenOneNodeSaysNo) {
  const uint64_t job = ended_job();
  for (const wire::Order::KindCase step :
       {wire::Order::kRestore, wire::Order::kConnect, wire::Order::kGo}) {
    fleet_.set_trouble([&](const std::string& node, const wire::Order& order) {
      return node == "n3" && order.kind_case() == step
                 ? std::optional(Status(Code::kUnsupported, "the CPU has no avx512f"))
                 : std::nullopt;
    });
    const wire::RunReply reply = restart(of(job));
    EXPECT_EQ(status_of(reply.outcome()).code(), Code::kUnsupported);
    EXPECT_THAT(reply.outcome().message(), HasSubstr("on n3: the CPU has no avx512f"));
    EXPECT_THAT(fleet_.pods(), IsEmpty());
    EXPECT_THAT(jobs(), IsEmpty());
    EXPECT_EQ(used_slots(), 0U);
  }
  fleet_.set_trouble(nullptr);
  EXPECT_EQ(restart(of(job)).outcome().code(), 0);
  EXPECT_EQ(jobs()[0].start(), 4U);
}

TEST_F(RestartTest, AJobThatIsNotKnownComesFromItsFolder) {
  const uint64_t job = ended_job();
  stop();
  std::filesystem::remove_all(scratch_ / "state");
  start_with_nodes();
  EXPECT_EQ(status_of(restart(of(job)).outcome()).code(), Code::kNotFound);
  wire::RestartRequest request;
  request.set_checkpoint_dir(sets());
  request.set_working_directory(scratch_.path());
  const wire::RunReply reply = restart(request);
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_EQ(reply.job(), job);
  EXPECT_GT(checkpoint(job).crid(), crid_) << "the folder's counter is respected";
  EXPECT_GT(running_job(), job) << "and so is its job's number";
}

// A new job got the number of one that ran, and with its end that one's pods were ended.
TEST_F(RestartTest, AJobBroughtBackKeepsItsNumber_WhenTheCountersWereLost) {
  const uint64_t first = run(program(1, 1)).job();
  fleet_.end_pod("n1", {{first, 0}, 0, 0}, exited(0));
  wait(first);
  const uint64_t job = ended_job();
  stop();
  std::filesystem::remove_all(scratch_ / "state");
  for (const char* node : {"n1", "n2", "n3"}) fleet_.lose_pods(node);
  start_with_nodes();
  wire::RestartRequest request = of(job);
  request.set_checkpoint_dir(sets());
  request.set_working_directory(scratch_.path());
  ASSERT_EQ(restart(request).outcome().code(), 0);
  wire::RunRequest other = program(1, 1);
  other.set_checkpoint_dir(scratch_ / "other");
  for (int i = 0; i < 4; ++i) EXPECT_GT(run(other).job(), job);
  EXPECT_THAT(fleet_.pods(), SizeIs(7));
}

// A manifest that is its user's can say what it likes.
TEST_F(RestartTest, ASetWithMoreRanksThanCanBe_IsRefused) {
  storage::Manifest manifest;
  manifest.crid = {1};
  manifest.job = {1, 0};
  manifest.ranks = UINT32_MAX;
  manifest.images.resize(1);
  manifest.images[0].host = "n1";
  const Result<stored::Job> record = record_of(manifest, nullptr);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code(), Code::kDamaged);
}

TEST_F(SetsTest, AFolderThatCountsTooFar_UsesUpNoNumbers) {
  const uint64_t job = running_job();
  ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  {
    storage::Database db =
        *storage::Database::open(sets() + "/ledger.sqlite", storage::Database::Mode::kExisting);
    ASSERT_TRUE(db.run("UPDATE counters SET value = 4611686018427387000"));
  }
  const wire::CheckpointReply reply = checkpoint(job);
  EXPECT_EQ(status_of(reply.outcome()).code(), Code::kConflict);
  EXPECT_THAT(reply.outcome().message(), HasSubstr("ls --rebuild"));
  EXPECT_EQ(run(program(1, 1)).job(), job + 1);
  wire::RunRequest other = program(1, 1);
  other.set_checkpoint_dir(scratch_ / "other");
  const uint64_t next = run(other).job();
  EXPECT_LE(next, job + 3);
  EXPECT_LT(checkpoint(next).crid(), 10U);
}

}  // namespace
}  // namespace fermata::coord
