// Restarts whose memory comes later: what is kept as long, and in which order it is given back.
#include "node-agent/lazy_restore.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "common/file_util.h"
#include "host_fixture.h"
#include "storage/manifest.h"
#include "storage/set_lock.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// Whether this process has a guard that can act.
bool has_guard() {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string stat = read_file(entry.path() / "stat").value_or("");
    if (stat.find(fmt::format("(fermata-guard) S {} ", getpid())) != std::string::npos) return true;
  }
  return false;
}

class LazyRestoreTest : public HostTest {};

// Settling moves pages for as long as there are many; an agent that is killed meanwhile must not
// leave a whole pod that is said to lack memory.
TEST_F(LazyRestoreTest, ThatAllHasCome_IsTold_BeforeTheGuardGoes_AndBeforeItSettles) {
  const pid_t init = fork();
  if (init == 0) {
    for (;;) pause();
  }
  ASSERT_GT(init, 0);
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, init, 0)));
  fs::create_directories(file("set"));
  std::vector<UniqueFd> locks;
  Result<UniqueFd> read = storage::lock_set_to_read(file("set"));
  ASSERT_TRUE(read) << read.error().message();
  locks.push_back(*std::move(read));
  std::atomic<bool> told = false;
  std::atomic<bool> guarded = false;
  std::atomic<bool> locked = false;
  std::atomic<bool> settles = false;
  std::atomic<bool> settled = false;
  Result<std::unique_ptr<LazyRestore>> lazy =
      LazyRestore::start(pidfd.get(), "/nowhere", std::move(locks), [&] {
        guarded = eventually(has_guard);
        locked = !storage::lock_set(file("set"));
        told = true;
      });
  ASSERT_TRUE(lazy) << lazy.error().message();
  const Status runs = (*lazy)->let_run({}, {}, {}, [&] {
    settles = true;
    eventually([&] { return settled.load(); });
  });
  ASSERT_TRUE(runs) << runs.message();
  (*lazy)->runs();
  ASSERT_TRUE(eventually([&] { return settles.load(); }));
  EXPECT_TRUE(told) << "while it settles";
  EXPECT_TRUE(guarded);
  EXPECT_TRUE(locked);
  EXPECT_FALSE(has_guard());
  EXPECT_TRUE(storage::lock_set(file("set")));
  settled = true;
  EXPECT_TRUE((*lazy)->finish(std::chrono::minutes(1)));
  lazy->reset();
  EXPECT_EQ(kill(init, SIGKILL), 0);
  EXPECT_EQ(waitpid(init, nullptr, 0), init);
}

TEST_F(LazyRestoreTest, TheSetsThatItsSetBuildsOn_AreWorkedOnByNobody) {
  const auto take = [&](TestHost& host, uint64_t crid, uint64_t parent, bool end_job) {
    wire::Done done;
    for (uint32_t number = 0; number <= static_cast<uint32_t>(SetPhase::kCommit); ++number) {
      wire::Order order = phase(static_cast<SetPhase>(number), crid, set_folder(crid), end_job);
      order.mutable_phase()->set_parent(parent);
      order.mutable_phase()->set_track("hash");
      done = host.ask(order);
      EXPECT_EQ(done.outcome().code(), 0) << done.outcome().message();
    }
    storage::Manifest manifest;
    manifest.crid = Crid{crid};
    manifest.parent = Crid{parent};
    manifest.chain_sets = parent == 0 ? 0 : 1;
    manifest.job = pod().step;
    manifest.ranks = 1;
    manifest.command = {"counter"};
    manifest.user = "root";
    manifest.time = "2026-11-21T22:00:00Z";
    manifest.tool_version = "1";
    manifest.result = end_job ? "killed" : "resumed";
    storage::ManifestImage taken;
    taken.pod = 0;
    taken.host = "testnode";
    taken.file = done.report().image();
    taken.bytes = fs::file_size(set_folder(crid) / taken.file);
    taken.memory_bytes = done.report().memory_bytes();
    taken.digest = done.report().digest();
    manifest.images = {taken};
    EXPECT_TRUE(storage::write_manifest(set_folder(crid), manifest));
    return done.report();
  };
  wire::PodReport image;
  {
    const std::unique_ptr<TestHost> first = make_host(pod());
    const wire::Done launched = first->ask(launch(counter()));
    ASSERT_EQ(launched.outcome().code(), 0) << launched.outcome().message();
    ASSERT_TRUE(eventually([&] { return count() > 3; }));
    take(*first, 5, 0, false);
    image = take(*first, 6, 5, true);
    ASSERT_EQ(image.parent(), 5U);
    EXPECT_EQ(first->ask(destroy()).outcome().code(), 0);
  }
  TestHost host(pod(0, 1), run_dir());
  const wire::Done stands = host.ask(restore_lazily(6, image));
  ASSERT_EQ(stands.outcome().code(), 0) << stands.outcome().message();
  for (const uint64_t crid : {5U, 6U}) {
    const auto worked_on = storage::lock_set(set_folder(crid));
    ASSERT_FALSE(worked_on) << "set " << crid << " is still to be read";
    EXPECT_EQ(worked_on.error().code(), Code::kBusy);
  }
  ASSERT_EQ(host.ask(connect(stands.addresses())).outcome().code(), 0);
  ASSERT_EQ(host.ask(go()).outcome().code(), 0);
  EXPECT_TRUE(eventually([&] { return storage::lock_set(set_folder(5)).has_value(); }));
  EXPECT_TRUE(counts_on());
  EXPECT_EQ(host.ask(destroy()).outcome().code(), 0);
  expect_nothing_left();
}

}  // namespace
}  // namespace fermata::node_agent
