// A tree of processes and threads that checks itself all the time, as the states do at their end:
// registers, sleeps, timeouts, pipes, TCP, shared memory, heap. Whatever touches it unseen, it
// sees. Speaks the protocol of tests/states/state.h; the first thing found wrong is the result,
// long before `go`.
#include <sys/epoll.h>
#include <sys/mman.h>

#include <atomic>
#include <vector>

#include "tests/states/tcp.h"

namespace {
constexpr size_t kShared = 1 << 20;

// A sleep is never interrupted, never short, and late by no more than a stand-still and a busy
// machine explain.
void sleeper() {
  while (!state::go()) {
    const timespec rest{0, 20000000};
    const int64_t start = state::now_ms();
    CHECK(nanosleep(&rest, nullptr) == 0, "a sleep was interrupted");
    const int64_t took = state::now_ms() - start;
    CHECK(took >= 19 && took < 3000 + state::late_ms(), "a sleep of 20 ms took %ld ms", took);
  }
}

void poller() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const int set = state::must(epoll_create1(0), "epoll_create1");
  epoll_event event{};
  event.events = EPOLLIN;
  state::must(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event), "epoll_ctl");
  while (!state::go()) {
    const int64_t start = state::now_ms();
    const int count = epoll_wait(set, &event, 1, 50);
    CHECK(count == 0, "epoll_wait returned %d", count);
    const int64_t took = state::now_ms() - start;
    CHECK(took >= 49 && took < 3000 + state::late_ms(), "a wait of 50 ms took %ld ms", took);
  }
}

void counter() {
  const pid_t tid = state::gettid();
  while (!state::go()) {
    double top = 0;
    uint64_t sum = 0;
    asm volatile(
        "fldpi\n xor %%r12d,%%r12d\n mov $30000000,%%ecx\n movq %%rcx,%%xmm9\n"
        "1: add $7,%%r12\n dec %%rcx\n jnz 1b\n"
        "movq %%xmm9,%%rax\n add %%rax,%%r12\n mov %%r12,%[sum]\n fstpl %[top]\n"
        : [top] "=m"(top), [sum] "=m"(sum)::"r12", "rcx", "rax", "xmm9", "cc", "memory");
    CHECK(sum == 30000000ULL * 8, "a register lost its value: %lx", sum);
    CHECK(top > 3.14159 && top < 3.1416, "an x87 register lost its value: %f", top);
    CHECK(state::gettid() == tid, "the TID changed");
    state::sleep_ms(10);  // about as long as it was busy: the tests share the machine
  }
}

// The heap is rewritten block by block, each block with a new seed, and read back.
void rewriter() {
  std::vector<std::vector<uint8_t>> blocks(32, std::vector<uint8_t>(256 * 1024));
  std::vector<unsigned> seeds(blocks.size());
  for (size_t i = 0; i < blocks.size(); i++) state::fill(blocks[i].data(), blocks[i].size(), 0);
  for (unsigned round = 1; !state::go(); round++) {
    const size_t i = round % blocks.size();
    state::check_filled(blocks[i].data(), blocks[i].size(), seeds[i], "the heap");
    seeds[i] = round;
    state::fill(blocks[i].data(), blocks[i].size(), round);
    state::sleep_ms(2);
  }
}

/// Sends numbers and wants them back plus one; ends by closing.
void ask(int to, int from) {
  for (uint64_t number = 1; !state::go(); number += 3) {
    uint64_t answer = 0;
    CHECK(write(to, &number, 8) == 8, "write: %s", strerror(errno));
    CHECK(read(from, &answer, 8) == 8, "read: %s", strerror(errno));
    CHECK(answer == number + 1, "asked %lu, was answered %lu", number, answer);
    if (number % 64 == 0) state::sleep_ms(2);
  }
}

void answer(int from, int to) {
  uint64_t number = 0;
  while (true) {
    const ssize_t got = read(from, &number, 8);
    if (got == 0) return;
    CHECK(got == 8, "read: %s", strerror(errno));
    number++;
    CHECK(write(to, &number, 8) == 8, "write: %s", strerror(errno));
  }
}
}  // namespace

int main() {
  int down[2];
  int up[2];
  state::must(pipe(down), "pipe");
  state::must(pipe(up), "pipe");
  const state::TcpPair tcp = state::tcp_pair(AF_INET);
  void* memory = mmap(nullptr, kShared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  auto* shared = static_cast<std::atomic<uint64_t>*>(memory);

  const pid_t pipes = state::child([&] {
    close(down[1]);
    close(up[0]);
    close(tcp.client);
    close(tcp.server);
    std::thread threads[] = {std::thread(sleeper), std::thread(poller)};
    answer(down[0], up[1]);
    for (std::thread& thread : threads) thread.join();
  });
  const pid_t network = state::child([&] {
    close(down[1]);
    close(tcp.client);
    std::thread beat([shared] {
      // Once at least: what is restarted from a first set begins when `go` is there already.
      do {
        shared[0]++;
        state::sleep_ms(1);
      } while (!state::go());
      shared[1] = 1;
    });
    answer(tcp.server, tcp.server);
    beat.join();
  });
  close(down[0]);
  close(up[1]);
  close(tcp.server);

  std::thread threads[] = {std::thread(sleeper), std::thread(poller), std::thread(counter),
                           std::thread(rewriter), std::thread(ask, tcp.client, tcp.client)};
  std::thread teller([] {
    state::sleep_ms(100);
    state::ready();
  });
  ask(down[1], up[0]);
  for (std::thread& thread : threads) thread.join();
  teller.join();
  close(down[1]);
  close(tcp.client);
  state::reap(pipes);
  state::reap(network);
  CHECK(shared[0] > 0 && shared[1] == 1, "the child's shared memory is not ours");
  state::pass();
}
