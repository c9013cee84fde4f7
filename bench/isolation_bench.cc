// What isolating a pod costs; node-agent/isolation/README.md has figures.
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sched.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"
#include "tests/unit/isolation/traffic.h"
#include "tests/unit/isolation/translations.h"

namespace fermata::isolation {
namespace {

using namespace std::chrono_literals;

Isolation installed(const PodGroup& group) {
  Result<Isolation> isolation = Isolation::install(group.path());
  if (!isolation) {
    fprintf(stderr, "%s\n", isolation.error().message().c_str());
    exit(1);
  }
  return *std::move(isolation);
}

std::vector<Entry> hosts(int count) {
  std::vector<Entry> entries;
  for (int i = 0; i < count; ++i) {
    const std::string rest = std::to_string(i / 250) + "." + std::to_string(i % 250 + 1);
    entries.push_back({0, address("10.99." + rest), address("127.77." + rest)});
  }
  return entries;
}

void install(benchmark::State& state) {
  for ([[maybe_unused]] auto round : state) {
    state.PauseTiming();
    const PodGroup group;
    state.ResumeTiming();
    benchmark::DoNotOptimize(installed(group));
  }
}
BENCHMARK(install)->Unit(benchmark::kMillisecond);

void cut_and_join(benchmark::State& state) {
  const PodGroup group;
  Isolation isolation = installed(group);
  for ([[maybe_unused]] auto round : state) {
    isolation.cut(1s);
    isolation.join();
  }
}
BENCHMARK(cut_and_join);

/// From cut() to a send(2) that is dropped, and from join() to one that arrives.
void datagram_after_flip(benchmark::State& state) {
  const PodGroup group;
  Isolation isolation = installed(group);
  group.enter();
  const Pair pair = make_pair(address("127.0.0.1"), SOCK_DGRAM);
  leave_pods();
  for ([[maybe_unused]] auto round : state) {
    isolation.cut(1s);
    send_bytes(pair.near, "x");
    isolation.join();
    send_bytes(pair.near, "y");
    char byte = 0;
    if (recv(pair.far.get(), &byte, 1, 0) != 1 || byte != 'y') state.SkipWithError("not cut");
  }
}
BENCHMARK(datagram_after_flip);

void stream(benchmark::State& state) {
  const bool attached = state.range(0) != 0;
  constexpr int64_t kBytes = 1L << 30;
  const PodGroup group;
  if (attached) installed(group);
  for ([[maybe_unused]] auto round : state)
    state.SetIterationTime(time_of_stream(&group, size_t{kBytes}).count());
  state.SetBytesProcessed(state.iterations() * kBytes);
}
BENCHMARK(stream)
    ->ArgName("programs")
    ->Arg(0)
    ->Arg(1)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

/// Datagrams there and back: the most packets, and the most calls that carry addresses.
void datagram_round_trip(benchmark::State& state) {
  const PodGroup group;
  Address to = address("127.0.0.1");
  if (state.range(0) >= 0) {
    Isolation isolation = installed(group);
    if (state.range(0) > 0) set(isolation, hosts(static_cast<int>(state.range(0))));
  }
  group.enter();
  const UniqueFd server = bound_socket(to, SOCK_DGRAM);
  const UniqueFd client = bound_socket(to, SOCK_DGRAM);
  leave_pods();
  to = local_of(server);
  for ([[maybe_unused]] auto round : state) {
    char byte = 'x';
    sendto(client.get(), &byte, 1, 0, to.get(), to.length);
    Address from;
    from.length = sizeof(from.storage);
    if (recvfrom(server.get(), &byte, 1, 0, from.get(), &from.length) != 1) break;
    sendto(server.get(), &byte, 1, 0, from.get(), from.length);
    if (recvfrom(client.get(), &byte, 1, 0, from.get(), &from.length) != 1) break;
  }
}
BENCHMARK(datagram_round_trip)->ArgName("entries")->Arg(-1)->Arg(0)->Arg(1)->Arg(1000);

void set_addresses(benchmark::State& state) {
  const PodGroup group;
  Isolation isolation = installed(group);
  image::AddressMap map;
  for (const Entry& entry : hosts(static_cast<int>(state.range(0)))) add(map, entry);
  for ([[maybe_unused]] auto round : state) {
    if (!isolation.set_addresses(map)) state.SkipWithError("set_addresses");
  }
}
BENCHMARK(set_addresses)->Arg(10)->Arg(1000)->Arg(10000)->Unit(benchmark::kMillisecond);

void first_byte_after_cut(benchmark::State& state) {
  Traffic traffic;
  const bool nudged = state.range(0) != 0;
  const std::chrono::seconds cut(state.range(1));
  for ([[maybe_unused]] auto round : state) {
    state.SetIterationTime(time_to_first_byte(traffic, cut, nudged).count());
  }
}
BENCHMARK(first_byte_after_cut)
    ->ArgNames({"nudged", "seconds"})
    ->ArgsProduct({{1, 0}, {1, 5}})
    ->Iterations(5)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fermata::isolation

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (unshare(CLONE_NEWNET) != 0) {
    perror("isolation_bench: run as root: unshare(CLONE_NEWNET)");
    return 1;
  }
  fermata::isolation::run("ip link set lo up");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
