// Resource limits, soft and hard, and that the kernel enforces them after the cut.
#include <sys/resource.h>

#include "tests/states/state.h"

int main() {
  const struct {
    __rlimit_resource resource;
    rlim_t soft;
    rlim_t hard;
  } limits[] = {{RLIMIT_NOFILE, 77, 200},         {RLIMIT_CORE, 0, 12345678},
                {RLIMIT_STACK, 6 << 20, 7 << 20}, {RLIMIT_FSIZE, 1 << 30, 1 << 30},
                {RLIMIT_SIGPENDING, 50, 60},      {RLIMIT_MSGQUEUE, 4096, 8192},
                {RLIMIT_NPROC, 5000, 5001},       {RLIMIT_CPU, 3600, 7200}};
  for (const auto& limit : limits) {
    const rlimit value{limit.soft, limit.hard};
    state::must(setrlimit(limit.resource, &value), "setrlimit");
  }
  state::hold();
  for (const auto& limit : limits) {
    rlimit now{};
    state::must(getrlimit(limit.resource, &now), "getrlimit");
    CHECK(now.rlim_cur == limit.soft && now.rlim_max == limit.hard,
          "limit %u is %lu / %lu, not %lu / %lu", static_cast<unsigned>(limit.resource),
          now.rlim_cur, now.rlim_max, limit.soft, limit.hard);
  }
  CHECK(fcntl(0, F_DUPFD, 77) == -1 && errno == EINVAL, "RLIMIT_NOFILE is not enforced");
  state::pass();
}
