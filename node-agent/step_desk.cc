#include "node-agent/step_desk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "common/file_util.h"
#include "common/log.h"

namespace fermata::node_agent {
namespace {

// A command line and an environment of a task; execve(2) takes less.
constexpr off_t kLongestCommand = 64 << 20;
constexpr const char* kFolder = "fermata-checkpoints";

PodId id_of(const std::tuple<uint64_t, uint32_t, uint32_t>& key, uint32_t pod) {
  return {{std::get<0>(key), std::get<1>(key)}, pod, std::get<2>(key)};
}

std::tuple<uint64_t, uint32_t, uint32_t> key_of(const PodId& pod) {
  return {pod.step.job, pod.step.step, pod.start};
}

bool tell(int fd, const StubFields& fields) {
  const std::string text = encode_stub_fields(fields);
  return send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(text.size());
}

std::optional<TaskCommand> read_command(int memfd) {
  struct stat status {};
  if (fstat(memfd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size > kLongestCommand) {
    return std::nullopt;
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got =
        pread(memfd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got <= 0) return std::nullopt;
    done += static_cast<size_t>(got);
  }
  const std::optional<StubFields> fields = decode_stub_fields(text);
  if (!fields) return std::nullopt;
  TaskCommand command = task_command_of(*fields);
  if (command.command.empty() || !command.working_directory.starts_with('/')) return std::nullopt;
  return command;
}

/// One message and the descriptors with it; nullopt: who said it is gone.
std::optional<std::pair<StubFields, std::vector<UniqueFd>>> receive(int fd) {
  std::string text(kLongestStubMessage, '\0');
  alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control{};
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR))
    return std::pair{StubFields{}, std::vector<UniqueFd>{}};
  if (got <= 0) return std::nullopt;
  std::vector<UniqueFd> with;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int one = -1;
      memcpy(&one, CMSG_DATA(header) + i * sizeof one, sizeof one);
      with.emplace_back(one);
    }
  }
  text.resize(static_cast<size_t>(got));
  std::optional<StubFields> fields = decode_stub_fields(text);
  if (!fields) return std::nullopt;
  return std::pair{*std::move(fields), std::move(with)};
}

std::string absolute(const std::string& path, const std::string& below) {
  return path.starts_with('/') ? path : (std::filesystem::path(below) / path).string();
}

}  // namespace

Result<std::unique_ptr<StepDesk>> StepDesk::open(const std::filesystem::path& socket,
                                                 std::filesystem::path folder,
                                                 StepDeskEvents events) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!listener) return errno_failure(errno, "socket");
  if (socket.native().size() >= sizeof address.sun_path) {
    return failure(Code::kUsage,
                   fmt::format("{}: the path of a socket is too long", socket.native()));
  }
  memcpy(address.sun_path, socket.c_str(), socket.native().size() + 1);
  unlink(socket.c_str());
  // A user's stub comes back to an agent that was started anew; what it may say is checked.
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(socket.c_str(), 0666) != 0 || listen(listener.get(), SOMAXCONN) != 0) {
    return errno_failure(errno, socket.native());
  }
  std::unique_ptr<StepDesk> desk(
      new StepDesk(std::move(listener), socket, std::move(folder), std::move(events)));
  if (!desk->poll_ || !desk->stop_) return errno_failure(errno, "an epoll and an eventfd");
  for (const int fd : {desk->listener_.get(), desk->stop_.get()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(desk->poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return errno_failure(errno, "epoll_ctl");
    }
  }
  desk->thread_ = std::thread([raw = desk.get()] { raw->work(); });
  return desk;
}

StepDesk::StepDesk(UniqueFd listener, std::filesystem::path socket, std::filesystem::path folder,
                   StepDeskEvents events)
    : listener_(std::move(listener)),
      socket_(std::move(socket)),
      folder_(std::move(folder)),
      events_(std::move(events)),
      poll_(epoll_create1(EPOLL_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC)) {}

StepDesk::~StepDesk() {
  if (stop_) (void)eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

// ---- the thread

void StepDesk::work() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const int count = epoll_wait(poll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events.at(static_cast<size_t>(i)).data.fd;
      if (fd == stop_.get()) return;
      if (fd == listener_.get()) {
        welcome();
      } else {
        hear(fd);
      }
    }
  }
}

void StepDesk::welcome() {
  UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  ucred who{};
  socklen_t length = sizeof who;
  if (!fd || getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) return;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd.get();
  if (epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) return;
  const std::lock_guard lock(mutex_);
  const int number = fd.get();
  guests_[number] = Guest{std::move(fd), who.pid, who.uid, std::nullopt};
}

void StepDesk::hear(int fd) {
  auto said = receive(fd);
  if (!said) return lose(fd);
  auto& [fields, with] = *said;
  const std::string_view kind = stub_field(fields, "kind");
  std::optional<std::tuple<PodId, uint32_t, int>> signal;
  std::vector<wire::StepOffer> offers;
  {
    const std::lock_guard lock(mutex_);
    const auto found = guests_.find(fd);
    if (found == guests_.end()) return;
    Guest& guest = found->second;
    if (kind == "task") introduce(guest, fields);
    if (kind == "attach") attach(guest, fields);
    if (kind == "ready") make_ready(guest, std::move(with));
    if (kind == "signal") {
      const Task* task = task_of(guest);
      const auto number = static_cast<int>(stub_number(fields, "number"));
      if (task != nullptr && task->pod && task->started && number > 0 && number <= SIGRTMAX) {
        signal = {id_of(guest.task->first, *task->pod), guest.task->second, number};
      }
    }
    offers.swap(to_offer_);
  }
  if (signal) events_.signal(std::get<0>(*signal), std::get<1>(*signal), std::get<2>(*signal));
  for (wire::StepOffer& offer : offers) events_.offer(std::move(offer));
}

void StepDesk::lose(int fd) {
  std::optional<std::pair<PodId, uint32_t>> killed;
  bool abandoned = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = guests_.find(fd);
    if (found == guests_.end()) return;
    if (Task* task = task_of(found->second)) {
      const auto [key, rank] = *found->second.task;
      task->stub.reset();
      if (task->started && !task->status && task->pod) {
        killed = {id_of(key, *task->pod), rank};
        abandoned = true;
        for (const auto& [number, other] : steps_.at(key).tasks) {
          const bool lives = other.stub.valid() || other.awaited;
          if (other.pod == task->pod && lives && !other.over) abandoned = false;
        }
      }
      if (!task->started) steps_.at(key).tasks.erase(rank);
      settle(key);
    }
    guests_.erase(found);
  }
  if (abandoned) {
    events_.abandoned(killed->first);
  } else if (killed) {
    events_.signal(killed->first, killed->second, SIGKILL);
  }
}

// ---- what stubs say

StepDesk::Task* StepDesk::task_of(const Guest& guest) {
  if (!guest.task) return nullptr;
  const auto step = steps_.find(guest.task->first);
  if (step == steps_.end()) return nullptr;
  const auto task = step->second.tasks.find(guest.task->second);
  return task == step->second.tasks.end() ? nullptr : &task->second;
}

void StepDesk::introduce(Guest& guest, const StubFields& said) {
  const std::optional<StepTask> facts = step_task_of(said);
  if (guest.uid != 0 || guest.task || !facts) {
    log_warning(fmt::format("process {} of user {} says it is a task of a Slurm step: not believed",
                            guest.pid, guest.uid));
    return;
  }
  const StepKey key{facts->job, facts->step, facts->start};
  Step& step = steps_[key];
  step.facts = *facts;
  Task& task = step.tasks[facts->rank];
  task = Task{};
  task.stub.reset(fcntl(guest.fd.get(), F_DUPFD_CLOEXEC, 0));
  task.pid = guest.pid;
  guest.task = {key, facts->rank};
}

void StepDesk::attach(Guest& guest, const StubFields& said) {
  const StepKey key{stub_number(said, "job"), static_cast<uint32_t>(stub_number(said, "step")),
                    static_cast<uint32_t>(stub_number(said, "start"))};
  const auto rank = static_cast<uint32_t>(stub_number(said, "rank"));
  guest.task = {key, rank};
  Task* task = task_of(guest);
  if (task == nullptr || !task->awaited || guest.task->second != rank ||
      (guest.uid != 0 && guest.uid != steps_.at(key).facts.uid)) {
    guest.task.reset();
    tell(guest.fd.get(), {{"kind", "ended"}, {"status", std::to_string(W_EXITCODE(1, 0))}});
    return;
  }
  task->awaited = false;
  task->stub.reset(fcntl(guest.fd.get(), F_DUPFD_CLOEXEC, 0));
  task->pid = guest.pid;
  if (deliver(*task)) settle(key);
}

void StepDesk::make_ready(const Guest& guest, std::vector<UniqueFd> with) {
  Task* task = task_of(guest);
  if (task == nullptr || task->ready || with.size() != 4) return;
  std::optional<TaskCommand> command = read_command(with[0].get());
  if (!command) {
    tell(task->stub.get(),
         {{"kind", "refused"}, {"status", "1"}, {"text", "the task has no command"}});
    return;
  }
  task->command = *std::move(command);
  for (size_t stream = 0; stream < task->streams.size(); ++stream) {
    task->streams.at(stream) = std::move(with[stream + 1]);
  }
  task->ready = true;
  offer_if_complete(steps_.at(guest.task->first));
}

void StepDesk::offer_if_complete(Step& step) {
  if (step.tasks.size() != step.facts.here) return;
  for (const auto& [rank, task] : step.tasks) {
    if (!task.ready || task.pod) return;
  }
  const StepTask& facts = step.facts;
  const TaskCommand& first = step.tasks.begin()->second.command;
  wire::StepOffer offer;
  offer.mutable_id()->set_job(facts.job);
  offer.mutable_id()->set_step(facts.step);
  offer.mutable_id()->set_start(facts.start);
  offer.mutable_id()->set_pod(facts.node);
  offer.set_owner_uid(facts.uid);
  offer.set_nodes(facts.nodes);
  offer.set_ranks(facts.ranks);
  for (const auto& [rank, task] : step.tasks) offer.add_ranks_here(rank);
  offer.set_interval_ms(facts.interval_ms);
  const std::string dir = !facts.dir.empty() ? facts.dir
                          : folder_.empty()  ? std::string(kFolder)
                                             : folder_.native();
  offer.set_checkpoint_dir(absolute(dir, first.working_directory));
  offer.set_restart_dir(
      absolute(facts.restart_dir.empty() ? dir : facts.restart_dir, first.working_directory));
  offer.set_restart(facts.restart);
  offer.set_skip_done(facts.skip_done);
  offer.set_compress(facts.compress);
  for (const std::string& word : first.command) offer.add_command(word);
  step.offered = true;
  to_offer_.push_back(std::move(offer));
}

// ---- what the agent says

StepDesk::Step* StepDesk::step_of(const PodId& pod) {
  const auto found = steps_.find(key_of(pod));
  return found == steps_.end() ? nullptr : &found->second;
}

/// Tells the stub what became of its rank, as far as that may be told: the last rank of a pod ends
/// when the pod has, so that nothing is left when Slurm looks. True: it was told.
bool StepDesk::deliver(Task& task) const {
  if (!task.stub || !task.status || !task.over) return false;
  tell(task.stub.get(), {{"kind", "ended"}, {"status", std::to_string(*task.status)}});
  return true;
}

/// Forgets a step of which nothing is left.
void StepDesk::settle(const StepKey& key) {
  const auto step = steps_.find(key);
  if (step == steps_.end()) return;
  std::erase_if(step->second.tasks,
                [](const auto& one) { return one.second.over && !one.second.awaited; });
  if (step->second.tasks.empty()) steps_.erase(step);
}

void StepDesk::resend() {
  std::vector<wire::StepOffer> offers;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [key, step] : steps_) {
      if (step.offered) offer_if_complete(step);
    }
    offers.swap(to_offer_);
  }
  for (wire::StepOffer& offer : offers) events_.offer(std::move(offer));
}

void StepDesk::refuse(const PodId& offer, const std::string& text, int exit_status) {
  const std::lock_guard lock(mutex_);
  Step* step = step_of(offer);
  if (step == nullptr) return;
  bool first = true;
  for (auto& [rank, task] : step->tasks) {
    if (task.started || !task.stub) continue;
    // Once is enough.
    const bool says = std::exchange(first, false) && !text.empty();
    tell(task.stub.get(), {{"kind", "refused"},
                           {"status", std::to_string(exit_status)},
                           {"text", says ? text : std::string()}});
  }
}

Result<StepPart> StepDesk::take(const PodId& pod, const std::vector<uint32_t>& ranks) {
  const std::lock_guard lock(mutex_);
  Step* step = step_of(pod);
  StepPart part;
  for (const uint32_t rank : ranks) {
    const auto found = step == nullptr ? decltype(step->tasks.end()){} : step->tasks.find(rank);
    if (step == nullptr || found == step->tasks.end() || !found->second.ready ||
        !found->second.stub) {
      return failure(Code::kGone, fmt::format("task {} of Slurm's step {} is not on this node any "
                                              "more",
                                              rank, to_string(pod.step)));
    }
    Task& task = found->second;
    FERMATA_ASSIGN(pod::ModelProcess model, pod::ModelProcess::of(task.pid));
    TaskPart& one = part.tasks.emplace_back();
    one.rank = rank;
    one.command = task.command;
    one.processors = model.processors();
    for (size_t stream = 0; stream < task.streams.size(); ++stream) {
      one.streams.at(stream).reset(fcntl(task.streams.at(stream).get(), F_DUPFD_CLOEXEC, 0));
      if (!one.streams.at(stream)) return errno_failure(errno, "a stream of a task");
    }
    task.pod = pod.pod;
    if (part.tasks.size() == 1) part.model = std::move(model);
  }
  if (part.tasks.empty()) return failure(Code::kInternal, "a pod without a task");
  return part;
}

void StepDesk::expect(const PodId& pod, const std::vector<uint32_t>& ranks, uid_t owner) {
  const std::lock_guard lock(mutex_);
  Step& step = steps_[key_of(pod)];
  step.facts.uid = owner;
  for (const uint32_t rank : ranks) {
    Task& task = step.tasks[rank];
    task.awaited = task.started = task.ready = true;
    task.pod = pod.pod;
  }
}

void StepDesk::started(const PodId& pod) {
  const std::lock_guard lock(mutex_);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  for (auto& [rank, task] : step->tasks) {
    if (task.pod != pod.pod || task.started) continue;
    task.started = true;
    task.streams = {};  // what is held here would keep their ends from being seen
    if (task.stub) tell(task.stub.get(), {{"kind", "started"}});
  }
}

void StepDesk::rank_ended(const PodId& pod, uint32_t rank, int wait_status) {
  const std::lock_guard lock(mutex_);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  const auto found = step->tasks.find(rank);
  if (found == step->tasks.end() || found->second.pod != pod.pod) return;
  found->second.status = wait_status;
  bool last = true;
  for (const auto& [number, task] : step->tasks) {
    if (task.pod == pod.pod && !task.status) last = false;
  }
  if (last) return;  // with the pod
  found->second.over = true;
  if (deliver(found->second)) settle(key_of(pod));
}

void StepDesk::pod_over(const PodId& pod, std::optional<int> wait_status) {
  const std::lock_guard lock(mutex_);
  Step* step = step_of(pod);
  if (step == nullptr) return;
  for (auto& [rank, task] : step->tasks) {
    if (task.pod != pod.pod) continue;
    if (!task.started) {
      task.pod.reset();  // the pod did not come to be; the coordinator says why
      continue;
    }
    if (!task.status) task.status = wait_status.value_or(W_EXITCODE(0, SIGKILL));
    task.over = true;
    deliver(task);
  }
  settle(key_of(pod));
}

}  // namespace fermata::node_agent
