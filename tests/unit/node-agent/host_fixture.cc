#include "host_fixture.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/pod.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {

namespace fs = std::filesystem;
using std::chrono::seconds;

namespace {

constexpr seconds kPatience{60};

}  // namespace

PodHostEvents TestHost::events() {
  PodHostEvents events;
  events.done = [this](wire::Done done) {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(answers_.contains(done.order())) << "answered twice";
    answers_[done.order()] = std::move(done);
    changed_.notify_all();
  };
  events.exchange = [](const wire::ExchangeUp&) {};
  events.over = [this](const PodId&, std::optional<wire::PodEnded> report) {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(over_) << "over twice";
    over_ = true;
    report_ = std::move(report);
    changed_.notify_all();
  };
  return events;
}

TestHost::TestHost(const PodId& pod, const fs::path& run_dir)
    : host_(std::make_unique<PodHost>(pod, PodHostSettings{"testnode", run_dir}, events())) {}

TestHost::TestHost(const PodRecord& adopted, const fs::path& run_dir)
    : host_(std::make_unique<PodHost>(adopted, PodHostSettings{"testnode", run_dir}, events())) {}

uint64_t TestHost::send(wire::Order order) {
  const uint64_t id = next_++;
  order.set_id(id);
  host_->order(std::move(order));
  return id;
}

wire::Done TestHost::answer_to(uint64_t order) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, kPatience, [&] { return answers_.contains(order); })) {
    throw std::runtime_error("an order was not answered");
  }
  return answers_[order];
}

bool TestHost::answered(uint64_t order) const {
  const std::lock_guard lock(mutex_);
  return answers_.contains(order);
}

bool TestHost::wait_over() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return over_; });
}

bool TestHost::is_over() const {
  const std::lock_guard lock(mutex_);
  return over_;
}

std::optional<wire::PodEnded> TestHost::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

void HostTest::SetUp() {
  ASSERT_EQ(geteuid(), 0U) << "these tests make namespaces and need root";
  ASSERT_EQ(pod::missing_capabilities(), "");
  static uint32_t step = 0;
  step_ = {3'000'000'000 + static_cast<uint64_t>(getpid()), step++};
  ASSERT_TRUE(fs::create_directory(file("sets")));
}

void HostTest::TearDown() {
  for (uint32_t number = 0; number < 4; ++number) {
    const fs::path path = group(number);
    if (!fs::exists(path)) continue;
    // What a failed test left running.
    EXPECT_TRUE(pod::kill_group(path));
    EXPECT_TRUE(pod::remove_group(path, 20'000));
  }
}

fs::path HostTest::group(uint32_t number) const {
  return *pod::cgroup2_mount() / "fermata" / (to_string(step_) + "." + std::to_string(number));
}

fs::path HostTest::set_folder(uint64_t crid) const {
  fs::path folder = folder_.path() / "sets" / to_string(step_) / std::to_string(crid);
  fs::create_directories(folder);
  return folder;
}

namespace {

void set_shape(wire::StepShape& shape, uint32_t pods) {
  shape.set_ranks(pods);
  for (uint32_t number = 0; number < pods; ++number) {
    shape.add_pod_of_rank(number);
    shape.add_hosts("host" + std::to_string(number));
  }
}

}  // namespace

wire::Order HostTest::launch(const std::string& script, uint32_t pods) const {
  wire::Order order;
  wire::LaunchOrder& launch = *order.mutable_launch();
  launch.set_owner_uid(0);
  set_shape(*launch.mutable_shape(), pods);
  for (const char* word : {"/bin/sh", "-c"}) launch.add_command(word);
  launch.add_command(script);
  launch.add_environment("PATH=/usr/bin:/bin");
  launch.set_working_directory(folder_.path().string());
  launch.mutable_streams()->set_output(file("out.%n").string());
  launch.set_checkpoint_dir(file("sets").string());
  return order;
}

wire::Order HostTest::phase(SetPhase phase, uint64_t crid, const fs::path& folder, bool end_job) {
  wire::Order order;
  order.set_timeout_ns(60'000'000'000);
  wire::PhaseOrder& out = *order.mutable_phase();
  out.set_phase(static_cast<uint32_t>(phase));
  out.set_crid(crid);
  out.set_folder(folder.string());
  out.set_end_job(end_job);
  return order;
}

wire::Order HostTest::restore(uint64_t crid, const wire::PodReport& image, uint32_t number,
                              uint32_t pods) const {
  wire::Order order;
  order.set_timeout_ns(60'000'000'000);
  wire::RestoreOrder& restore = *order.mutable_restore();
  restore.set_owner_uid(0);
  restore.set_crid(crid);
  *restore.mutable_saved() = wire::to_wire(pod(number));
  restore.set_image((set_folder(crid) / image.image()).string());
  restore.set_digest(image.digest());
  set_shape(*restore.mutable_shape(), pods);
  restore.mutable_streams()->set_output(file("out.%n").string());
  restore.set_checkpoint_dir(file("sets").string());
  return order;
}

wire::Order HostTest::restore_lazily(uint64_t crid, const wire::PodReport& image) const {
  wire::Order order = restore(crid, image);
  order.mutable_restore()->set_lazy(true);
  return order;
}

wire::Order HostTest::connect(const image::AddressMap& addresses) {
  wire::Order order;
  order.set_timeout_ns(60'000'000'000);
  *order.mutable_connect()->mutable_addresses() = addresses;
  return order;
}

wire::Order HostTest::simple(const std::function<void(wire::Order&)>& fill) {
  wire::Order order;
  order.set_timeout_ns(60'000'000'000);
  fill(order);
  return order;
}

wire::Order HostTest::go() {
  return simple([](wire::Order& order) { order.mutable_go(); });
}
wire::Order HostTest::destroy() {
  return simple([](wire::Order& order) { order.mutable_destroy(); });
}
wire::Order HostTest::roll_back(uint64_t crid) {
  return simple([&](wire::Order& order) { order.mutable_roll_back()->set_crid(crid); });
}

wire::Done HostTest::take_until(TestHost& host, SetPhase last, uint64_t crid, bool end_job) {
  wire::Done done;
  for (uint32_t number = 0; number <= static_cast<uint32_t>(last); ++number) {
    done = host.ask(phase(static_cast<SetPhase>(number), crid, set_folder(crid), end_job));
    EXPECT_EQ(done.outcome().code(), 0) << "phase " << number << ": " << done.outcome().message();
    if (done.outcome().code() != 0) break;
  }
  return done;
}

std::string HostTest::counter() const {
  // One file that stays: a cut while it was renamed could not be restarted.
  return "i=0; while :; do i=$((i+1)); echo $i >> " + file("count").string() + "; sleep 0.02; done";
}

long HostTest::count() const {
  long number = -1;
  std::ifstream lines(file("count"));
  for (std::string line; std::getline(lines, line) && !lines.eof();) number = std::stol(line);
  return number;
}

bool HostTest::counts_on() const {
  const long before = count();
  return eventually([&] { return count() > before; });
}

void HostTest::expect_nothing_left(uint32_t pods) const {
  for (uint32_t number = 0; number < pods; ++number) {
    EXPECT_FALSE(fs::exists(group(number))) << group(number);
  }
  EXPECT_THAT(records(), ::testing::IsEmpty());
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(file("sets"))) {
    EXPECT_NE(entry.path().extension(), ".part") << entry.path();
  }
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace fermata::node_agent
