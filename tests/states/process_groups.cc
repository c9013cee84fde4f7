// Process groups and sessions: a group led by a child, a session of its own, and a group whose
// leader is dead.
#include <csignal>

#include "tests/states/state.h"

namespace {
struct Place {
  pid_t group;
  pid_t session;
};

Place place(pid_t pid) { return {getpgid(pid), getsid(pid)}; }

void check(pid_t pid, Place before, const char* which) {
  const Place now = place(pid);
  CHECK(now.group == before.group && now.session == before.session,
        "%s: group %d session %d, was %d and %d", which, now.group, now.session, before.group,
        before.session);
}
}  // namespace

int main() {
  const pid_t grouped = state::child([] {
    while (true) pause();
  });
  const pid_t member = state::child([] {
    while (true) pause();
  });
  const pid_t session = state::child([] {
    setsid();
    state::put("session", "");
    while (true) pause();
  });
  const pid_t leader = state::child([] {
    state::wait_for_go();  // replaced by a kill below
  });
  const pid_t orphaned = state::child([] {
    while (true) pause();
  });
  state::must(setpgid(grouped, grouped), "setpgid");
  state::must(setpgid(member, grouped), "setpgid");
  state::must(setpgid(leader, leader), "setpgid");
  state::must(setpgid(orphaned, leader), "setpgid");
  kill(leader, SIGKILL);
  waitpid(leader, nullptr, 0);
  while (access(state::path("session").c_str(), F_OK) != 0) state::sleep_ms(2);
  const pid_t all[] = {getpid(), grouped, member, session, orphaned};
  const char* names[] = {"main", "leader of a group", "its member", "leader of a session",
                         "member of a group without leader"};
  Place before[5];
  for (int i = 0; i < 5; i++) before[i] = place(all[i]);
  CHECK(before[2].group == grouped && before[3].session == session && before[4].group == leader,
        "the groups were not made");
  state::hold();
  for (int i = 0; i < 5; i++) check(all[i], before[i], names[i]);
  // A signal to the group reaches both of its members and nobody else.
  state::must(kill(-grouped, SIGTERM), "kill of the group");
  for (const pid_t pid : {grouped, member}) {
    int status = 0;
    state::must(waitpid(pid, &status, 0), "waitpid");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "status %x",
          static_cast<unsigned>(status));
  }
  CHECK(waitpid(-1, nullptr, WNOHANG) == 0, "somebody else died of the group's signal");
  kill(session, SIGKILL);
  kill(-leader, SIGKILL);
  waitpid(session, nullptr, 0);
  waitpid(orphaned, nullptr, 0);
  state::pass();
}
