// How long sets of very many agents take at the coordinator: the real server, set protocol, ledger
// and manifest here, agents that answer at once in a process beside it, munged between them.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/coord_scale/simulated_agents.h"
#include "common/credentials.h"
#include "common/munge.h"
#include "coord/coordinator.h"
#include "coord/remote_agent.h"
#include "coord/server.h"
#include "coord/writer_gate.h"
#include "tests/support/coordinator_double.h"
#include "tests/support/munged.h"
#include "tests/support/scratch_folder.h"

namespace fermata::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  size_t agents = 1000;
  size_t rounds = 20;
  size_t connections = 16;
  bool json = false;
  // Of the agents' process.
  std::string coordinator;
  std::string munge_socket;
};

double milliseconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

/// Waits for agents to attach; they are not to be lost.
class Attendance final : public coord::CoordinatorDouble {
 public:
  Result<wire::Welcome> agent_attached(const wire::Hello&) override {
    const std::lock_guard lock(mutex_);
    ++attached_;
    changed_.notify_all();
    return wire::Welcome();
  }
  void agent_lost(const std::string&) override {
    const std::lock_guard lock(mutex_);
    ++lost_;
    changed_.notify_all();
  }
  /// False when one is lost, or after `patience` without a new one.
  bool wait_for(size_t agents, std::chrono::seconds patience) {
    std::unique_lock lock(mutex_);
    while (attached_ < agents && lost_ == 0) {
      const size_t before = attached_;
      if (!changed_.wait_for(lock, patience, [&] { return attached_ != before || lost_ != 0; })) {
        return false;
      }
    }
    return lost_ == 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t attached_ = 0;
  size_t lost_ = 0;
};

/// The first agent of a set, noting when its phases begin: the barrier before each is passed then.
class Stopwatch final : public coord::Agent {
 public:
  explicit Stopwatch(coord::Agent& agent) : agent_(agent) {}

  Clock::time_point isolated() const { return isolated_; }
  Clock::time_point captured() const { return captured_; }

  std::string node() const override { return agent_.node(); }
  void begin(coord::Phase phase, const coord::SetOrder& order, coord::Time deadline) override {
    if (phase == coord::Phase::kCapture) isolated_ = Clock::now();
    if (phase == coord::Phase::kJoin) captured_ = Clock::now();
    agent_.begin(phase, order, deadline);
  }
  Result<coord::AgentReport> await(coord::Time deadline) override { return agent_.await(deadline); }
  void roll_back(const coord::SetOrder& order) override { agent_.roll_back(order); }
  void await_roll_back(coord::Time deadline) override { agent_.await_roll_back(deadline); }
  void end_job(const coord::SetOrder& order) override { agent_.end_job(order); }
  Status await_end(coord::Time deadline) override { return agent_.await_end(deadline); }

 private:
  coord::Agent& agent_;
  Clock::time_point isolated_;
  Clock::time_point captured_;
};

/// Milliseconds from the request on, by round.
struct Times {
  std::vector<double> isolated;
  std::vector<double> captured;
  std::vector<double> committed;
};

double percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(part * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

Status take_sets(const Options& options, coord::Fleet& fleet, Times& times) {
  const ScratchFolder folder;
  FERMATA_ASSIGN_STATUS(Credentials owner, credentials_of_caller());
  coord::Coordinator coordinator(folder.path(), owner);
  coord::JobDescription job;
  job.job = {.job = 1, .step = 0};
  job.ranks = static_cast<uint32_t>(options.agents);
  job.command = {"simulated"};
  job.owner = std::move(owner);
  for (uint32_t i = 0; i < options.agents; ++i) job.pod_of_rank.push_back(i);
  coord::WriterGate gate(0);
  // The first warms up: its time is that of fresh memory and files.
  for (size_t round = 0; round <= options.rounds; ++round) {
    std::vector<std::unique_ptr<coord::RemoteAgent>> pods;
    std::vector<coord::Agent*> agents;
    for (uint32_t i = 0; i < options.agents; ++i) {
      pods.push_back(std::make_unique<coord::RemoteAgent>(fleet, gate, node_name(i),
                                                          PodId{job.job, i, 0}, std::stop_token()));
      agents.push_back(pods.back().get());
    }
    Stopwatch stopwatch(*agents.front());
    agents.front() = &stopwatch;
    const auto request = Clock::now();
    const coord::TriedSet set = coordinator.take_set(job, agents, false);
    const auto committed = Clock::now();
    FERMATA_TRY(set.outcome.status);
    if (round == 0) continue;
    times.isolated.push_back(milliseconds_between(request, stopwatch.isolated()));
    times.captured.push_back(milliseconds_between(request, stopwatch.captured()));
    times.committed.push_back(milliseconds_between(request, committed));
  }
  return Status::ok();
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

/// This program once more, as the agents; before gRPC has threads here.
pid_t start_agents(const Options& options, const std::string& coordinator,
                   const std::filesystem::path& munge_socket) {
  std::vector<std::string> words{"fermata-coord-scale",
                                 "--agents",
                                 std::to_string(options.agents),
                                 "--connections",
                                 std::to_string(options.connections),
                                 "--attach-to",
                                 coordinator,
                                 "--munge-socket",
                                 munge_socket.string()};
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::execv("/proc/self/exe", arguments.data());
    ::_exit(127);
  }
  return pid;
}

void print(const Options& options, const Times& times, double attach_s, double cpu_s) {
  nlohmann::ordered_json out;
  out["agents"] = options.agents;
  out["rounds"] = options.rounds;
  out["connections"] = options.connections;
  const auto add = [&out](const std::string& what, const std::vector<double>& values) {
    out[what + "_p50_ms"] = percentile(values, 0.5);
    out[what + "_p99_ms"] = percentile(values, 0.99);
  };
  add("barrier", times.isolated);
  add("captured", times.captured);
  add("committed", times.committed);
  out["coordinator_cpu_s"] = cpu_s;
  out["coordinator_rss_bytes"] = resident_bytes();
  out["attach_s"] = attach_s;
  if (options.json) {
    fmt::print("{}\n", out.dump());
  } else {
    for (const auto& [key, value] : out.items()) fmt::print("{:<24} {}\n", key, value.dump());
  }
}

int fail(const std::string& sentence) {
  fmt::print(stderr, "fermata-coord-scale: {}\n", sentence);
  return 1;
}

int measure(const Options& options) {
  const Munged munged;
  MungeAuthenticator authenticator(munged.socket());
  Attendance attendance;
  coord::ServerOptions server_options;
  server_options.listen = "127.0.0.1:0";
  // Ten thousand at once wait for munged, on a machine that they share.
  server_options.hello_within = std::chrono::minutes(5);
  server_options.silence = std::chrono::minutes(1);
  coord::Server server(server_options, authenticator);
  if (const Status started = server.start(attendance, attendance); !started) {
    return fail(started.message());
  }
  const auto begun = Clock::now();
  const pid_t agents =
      start_agents(options, fmt::format("127.0.0.1:{}", server.port()), munged.socket());
  Times times;
  Status status;
  double attach_s = 0;
  double cpu_s = 0;
  if (agents < 0 || !attendance.wait_for(options.agents, std::chrono::seconds(60))) {
    status = {Code::kGone, "the simulated agents do not attach"};
  } else {
    attach_s = milliseconds_between(begun, Clock::now()) / 1000;
    const double cpu_before = cpu_seconds();
    status = take_sets(options, server, times);
    cpu_s = cpu_seconds() - cpu_before;
  }
  if (status) print(options, times, attach_s, cpu_s);
  server.stop();
  if (agents > 0) {
    ::kill(agents, SIGKILL);
    ::waitpid(agents, nullptr, 0);
  }
  return status ? 0 : fail(status.message());
}

}  // namespace
}  // namespace fermata::bench

int main(int argc, char** argv) {
  fermata::bench::Options options;
  CLI::App app("Sets of many simulated agents: how long they take at the coordinator");
  app.add_option("--agents", options.agents, "Agents, each with one pod")
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds, "Sets that are taken, after one to warm up")
      ->check(CLI::PositiveNumber);
  app.add_option("--connections", options.connections, "TCP connections that the agents share")
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", options.json, "Print one JSON object");
  // Of this program's own second process.
  app.add_option("--attach-to", options.coordinator)->group("");
  app.add_option("--munge-socket", options.munge_socket)->group("");
  CLI11_PARSE(app, argc, argv);
  options.connections = std::min(options.connections, options.agents);

  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);

  if (!options.coordinator.empty()) {
    return fermata::bench::simulate_agents(options.coordinator, options.munge_socket,
                                           options.agents, options.connections);
  }
  return fermata::bench::measure(options);
}
