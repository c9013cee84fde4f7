#include "node-agent/engine/process_tree.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace fermata::engine {
namespace {

constexpr int kInit = 1;

bool leads_session(const image::Process& process) { return process.session() == process.vpid(); }

}  // namespace

ProcessTreeBuilder::ProcessTreeBuilder(const image::PodObjects& objects, uint64_t bootstrap,
                                       std::unique_ptr<RebuildRemote> init)
    : objects_(objects), bootstrap_(bootstrap) {
  remotes_[kInit] = std::move(init);
  session_of_[kInit] = kInit;
  for (const image::Process& one : objects.processes()) {
    used_numbers_.insert({one.vpid(), one.group(), one.session()});
    for (const image::Thread& thread : one.threads()) used_numbers_.insert(thread.vtid());
  }
}

const image::Process* ProcessTreeBuilder::process(int vpid) const {
  for (const image::Process& one : objects_.processes()) {
    if (one.vpid() == vpid) return &one;
  }
  return nullptr;
}

std::vector<const image::Process*> ProcessTreeBuilder::children(int vpid) const {
  std::vector<const image::Process*> found;
  for (const image::Process& one : objects_.processes()) {
    if (one.parent() == vpid) found.push_back(&one);
  }
  return found;
}

int ProcessTreeBuilder::free_number() {
  while (used_numbers_.contains(next_free_)) ++next_free_;
  used_numbers_.insert(next_free_);
  return next_free_;
}

Status ProcessTreeBuilder::fork(int forker, int vpid, uint64_t extra_flags) {
  // With CLONE_PARENT the exit signal is the forker's own (clone(2)).
  const int exit_signal = (extra_flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  FERMATA_ASSIGN_STATUS(const pid_t pid, remote(forker).create(extra_flags, exit_signal, vpid));
  FERMATA_ASSIGN_STATUS(remotes_[vpid], RebuildRemote::adopt(pid, pid, bootstrap_));
  session_of_[vpid] = session_of_[forker];
  return Status::ok();
}

Status ProcessTreeBuilder::set_session(int vpid) {
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const long session,
                        remote(vpid).call(fmt::format("setsid of process {}", vpid), SYS_setsid));
  session_of_[vpid] = vpid;
  return Status::ok();
}

Status ProcessTreeBuilder::build() {
  const image::Process* init = process(kInit);
  if (init == nullptr) return {Code::kDamaged, "the image has no PID 1"};
  order_.push_back(kInit);
  FERMATA_TRY(build_below(*init));
  // Children of PID 1 whose session is not PID 1's: born in that session, then left to PID 1.
  for (const image::Process* child : children(kInit)) {
    if (!has(child->vpid())) FERMATA_TRY(adopt_into_session(*child));
  }
  for (const image::Process& one : objects_.processes()) {
    if (!has(one.vpid())) {
      return {Code::kDamaged,
              fmt::format("process {} (parent {}, session {}) cannot be made: its parent's session "
                          "is another",
                          one.vpid(), one.parent(), one.session())};
    }
  }
  return Status::ok();
}

Status ProcessTreeBuilder::build_below(const image::Process& parent) {
  const auto make = [&](const image::Process& child) {
    FERMATA_TRY(fork(parent.vpid(), child.vpid(), 0));
    if (!child.zombie()) order_.push_back(child.vpid());
    return build_below(child);
  };
  // Born before their parent left the session they are in.
  if (leads_session(parent) && parent.vpid() != kInit) {
    for (const image::Process* child : children(parent.vpid())) {
      if (!leads_session(*child) && child->session() != parent.vpid() &&
          child->session() == session_of_[parent.vpid()]) {
        FERMATA_TRY(make(*child));
      }
    }
    FERMATA_TRY(set_session(parent.vpid()));
  }
  for (const image::Process* child : children(parent.vpid())) {
    if (has(child->vpid())) continue;
    if (leads_session(*child) || child->session() == session_of_[parent.vpid()]) {
      FERMATA_TRY(make(*child));
    }
  }
  return Status::ok();
}

Status ProcessTreeBuilder::ensure_session_leader(int session) {
  if (has(session)) return Status::ok();
  FERMATA_TRY(fork(kInit, session, 0));
  helpers_.insert(session);
  return set_session(session);
}

Status ProcessTreeBuilder::adopt_into_session(const image::Process& child) {
  FERMATA_TRY(ensure_session_leader(child.session()));
  const image::Process* leader = process(child.session());
  if (leader == nullptr || leader->parent() == kInit) {
    FERMATA_TRY(fork(child.session(), child.vpid(), CLONE_PARENT));
  } else {
    // A child of a helper that ends goes to PID 1.
    const int helper = free_number();
    FERMATA_TRY(fork(child.session(), helper, 0));
    helpers_.insert(helper);
    FERMATA_TRY(fork(helper, child.vpid(), 0));
  }
  if (!child.zombie()) order_.push_back(child.vpid());
  return build_below(child);
}

Status ProcessTreeBuilder::finish_groups() {
  // Groups whose leader has ended, by a helper in the session of a member.
  for (const image::Process& one : objects_.processes()) {
    if (one.group() <= 0 || has(one.group())) continue;
    FERMATA_TRY(ensure_session_leader(one.session()));
    FERMATA_TRY(fork(one.session(), one.group(), 0));
    helpers_.insert(one.group());
  }
  const auto join = [&](int vpid, int group) -> Status {
    if (session_of_[vpid] == vpid) return Status::ok();  // a session leader leads its group too
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                          remote(vpid).call(fmt::format("setpgid of process {} to {}", vpid, group),
                                            SYS_setpgid, {0, static_cast<uint64_t>(group)}));
    return Status::ok();
  };
  for (const int helper : helpers_) FERMATA_TRY(join(helper, helper));
  for (const image::Process& one : objects_.processes()) {
    if (one.group() == one.vpid()) FERMATA_TRY(join(one.vpid(), one.group()));
  }
  for (const image::Process& one : objects_.processes()) {
    if (one.group() != one.vpid() && one.group() > 0) FERMATA_TRY(join(one.vpid(), one.group()));
  }
  // Highest numbers were made last: a helper's child goes to PID 1 when the helper ends.
  for (const int helper : helpers_) FERMATA_TRY(end_helper(helper));
  helpers_.clear();
  return Status::ok();
}

Status ProcessTreeBuilder::end_helper(int vpid) {
  RebuildRemote& helper = remote(vpid);
  if (::kill(helper.pid(), SIGKILL) != 0) return errno_status(errno, "ending a helper process");
  const pid_t pid = helper.pid();
  ::waitpid(pid, nullptr, __WALL);
  remotes_.erase(vpid);
  // Its parent (PID 1, or the leader of the session it served) reaps it, so that no zombie of ours
  // stays.
  for (auto& [parent, remote] : remotes_) {
    RemoteCall reap{SYS_wait4, {static_cast<uint64_t>(vpid), 0, WNOHANG | __WALL, 0}, 0};
    FERMATA_TRY(remote->run(std::span(&reap, 1)));
    if (reap.result == vpid) return Status::ok();
  }
  return {Code::kInternal, fmt::format("helper process {} was not reaped", vpid)};
}

Status ProcessTreeBuilder::stop_the_stopped() {
  for (const image::Process& one : objects_.processes()) {
    if (!one.stopped() || one.zombie()) continue;
    FERMATA_TRY(remote(one.vpid()).enter_group_stop());
    RemoteCall reported{
        SYS_wait4, {static_cast<uint64_t>(one.vpid()), 0, WNOHANG | WUNTRACED | __WALL, 0}, 0};
    FERMATA_TRY(remote(one.parent()).run(std::span(&reported, 1)));
  }
  return Status::ok();
}

Status ProcessTreeBuilder::end_zombies() {
  for (const image::Process& one : objects_.processes()) {
    if (!one.zombie()) continue;
    RebuildRemote& zombie = remote(one.vpid());
    if (WIFEXITED(one.exit_status())) {
      RemoteCall exit{SYS_exit_group, {static_cast<uint64_t>(WEXITSTATUS(one.exit_status()))}, 0};
      const Status ended = zombie.run(std::span(&exit, 1));
      if (ended.code() != Code::kGone) {
        return {Code::kInternal, fmt::format("zombie {} did not end", one.vpid())};
      }
      reap_tracees({zombie.pid()});  // then its parent sees it
    } else {
      FERMATA_TRY(zombie.die_of(WTERMSIG(one.exit_status())));
    }
    remotes_.erase(one.vpid());
  }
  return Status::ok();
}

}  // namespace fermata::engine
