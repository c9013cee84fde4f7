#include "spank-plugin/stub.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "spank-plugin/limits.h"

namespace fermata::spank_plugin {
namespace {

// An agent that is being started anew is back by then.
constexpr timespec kBetweenTries{0, 100'000'000};
constexpr size_t kMostSignals = 256;

Result<UniqueFd> connect_to(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure(errno, "socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return failure(Code::kUsage, path + ": the path of a socket is too long");
  }
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return errno_failure(errno, path);
  }
  return fd;
}

Status send_fields(int fd, const StubFields& fields, std::span<const int> with = {}) {
  const std::string text = encode_stub_fields(fields);
  iovec part{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!with.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(with.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(with.size_bytes());
    memcpy(CMSG_DATA(header), with.data(), with.size_bytes());
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? errno_status(errno, "telling the agent") : Status::ok();
}

/// nullopt: the agent is gone.
std::optional<StubFields> receive(int fd) {
  std::string text(kLongestStubMessage, '\0');
  ssize_t got = 0;
  do {
    got = recv(fd, text.data(), text.size(), 0);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return std::nullopt;
  text.resize(static_cast<size_t>(got));
  return decode_stub_fields(text);
}

Result<UniqueFd> memfd_of(const std::string& text) {
  UniqueFd fd(memfd_create("fermata-task", MFD_CLOEXEC));
  if (!fd) return errno_failure(errno, "memfd_create");
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(fd.get(), text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno_failure(errno, "writing what the task is");
    done += static_cast<size_t>(wrote);
  }
  return fd;
}

[[noreturn]] void end_as(int wait_status) {
  if (WIFEXITED(wait_status)) _exit(WEXITSTATUS(wait_status));
  const int signo = WTERMSIG(wait_status);
  // The rank has left its core; not a second one of this process.
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  signal(signo, SIG_DFL);
  raise(signo);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signo);
  sigprocmask(SIG_UNBLOCK, &one, nullptr);
  _exit(128 + signo);
}

class Stub {
 public:
  Stub(UniqueFd agent, std::string socket, const StepTask& task)
      : agent_(std::move(agent)), socket_(std::move(socket)), task_(task) {}

  Status hand_over(TaskCommand command) {
    const std::vector<SoftLimit> limits = take_limits(command.environment);
    FERMATA_ASSIGN_STATUS(const UniqueFd memory, memfd_of(encode_stub_fields(to_fields(command))));
    set_limits(limits);  // the pod takes them over from here
    const std::array<int, 4> with{memory.get(), STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
    return send_fields(agent_.get(), {{"kind", "ready"}}, with);
  }

  Refused serve() {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    signals_.reset(signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
    prctl(PR_SET_NAME, "fermata-stub");
    for (;;) {
      std::array<pollfd, 2> sources{{{agent_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}}};
      poll(sources.data(), sources.size(), agent_ ? -1 : 100);
      if (sources[1].revents != 0) take_signals();
      if (!agent_) attach();
      if (!agent_ || sources[0].revents == 0) continue;
      const std::optional<StubFields> said = receive(agent_.get());
      if (!said) {
        if (!started_) return {1, "the agent of this node ended while it was starting the step"};
        agent_.reset();  // its pods run on; another agent will know them
        continue;
      }
      const std::string_view kind = stub_field(*said, "kind");
      if (kind == "started" && !started_) let_go();
      if (kind == "ended") end_as(static_cast<int>(stub_number(*said, "status")));
      if (kind == "refused" && !started_) {
        return {static_cast<int>(stub_number(*said, "status")),
                std::string(stub_field(*said, "text"))};
      }
    }
  }

 private:
  /// The rank has its streams; held here, their ends would go unseen.
  void let_go() {
    started_ = true;
    const int null = open("/dev/null", O_RDWR);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, stream);
    constexpr int kAgent = STDERR_FILENO + 1;
    constexpr int kSignals = kAgent + 1;
    // Either may lie where the other is to be.
    const int agent = fcntl(agent_.get(), F_DUPFD_CLOEXEC, kSignals + 1);
    const int signals = fcntl(signals_.get(), F_DUPFD_CLOEXEC, kSignals + 1);
    (void)agent_.release();
    (void)signals_.release();
    agent_.reset(dup3(agent, kAgent, O_CLOEXEC));
    signals_.reset(dup3(signals, kSignals, O_CLOEXEC));
    syscall(SYS_close_range, kSignals + 1, ~0U, 0);
  }

  void take_signals() {
    signalfd_siginfo info{};
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      if (info.ssi_signo == SIGCHLD) continue;
      const auto number = static_cast<int>(info.ssi_signo);
      // As the kernel has it, of each standard signal one is pending.
      const bool there =
          std::find(signals_kept_.begin(), signals_kept_.end(), number) != signals_kept_.end();
      if (signals_kept_.size() < kMostSignals && (number >= SIGRTMIN || !there)) {
        signals_kept_.push_back(number);
      }
    }
    pass_signals_on();
  }

  /// Those that came while no agent was there wait for the next.
  void pass_signals_on() {
    while (agent_ && !signals_kept_.empty()) {
      const Status sent = send_fields(
          agent_.get(), {{"kind", "signal"}, {"number", std::to_string(signals_kept_.front())}});
      if (!sent) return;  // the agent's end is about to be seen
      signals_kept_.erase(signals_kept_.begin());
    }
  }

  void attach() {
    Result<UniqueFd> found = connect_to(socket_);
    if (!found) return;
    const Status said = send_fields(found->get(), {{"version", kStubVersion},
                                                   {"kind", "attach"},
                                                   {"job", std::to_string(task_.job)},
                                                   {"step", std::to_string(task_.step)},
                                                   {"start", std::to_string(task_.start)},
                                                   {"rank", std::to_string(task_.rank)}});
    if (!said) return;
    agent_ = *std::move(found);
    pass_signals_on();
  }

  UniqueFd agent_;
  UniqueFd signals_;
  std::vector<int> signals_kept_;  ///< that no agent has heard of yet
  const std::string socket_;
  const StepTask& task_;
  bool started_ = false;
};

}  // namespace

Result<UniqueFd> introduce(const std::string& socket, const StepTask& task,
                           std::chrono::milliseconds patience) {
  if (encode_stub_fields(to_fields(task)).size() > kLongestStubMessage) {
    return failure(Code::kUnsupported, "the user is in more groups than the agent can be told of");
  }
  const auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    Result<UniqueFd> fd = connect_to(socket);
    if (fd) {
      FERMATA_TRY_RESULT(send_fields(fd->get(), to_fields(task)));
      return fd;
    }
    if (fd.error().code() == Code::kUsage) return fd;  // that path never will do
    if (std::chrono::steady_clock::now() >= end) {
      return failure(Code::kGone,
                     "no fermata-agentd answers on this node: " + fd.error().message());
    }
    nanosleep(&kBetweenTries, nullptr);
  }
}

Refused serve(UniqueFd agent, const std::string& socket, const StepTask& task,
              const TaskCommand& command) {
  Stub stub(std::move(agent), socket, task);
  const Status handed = stub.hand_over(command);
  if (!handed) return {1, handed.message()};
  return stub.serve();
}

std::string find_in_path(const std::string& name, const std::vector<std::string>& environment) {
  if (name.find('/') != std::string::npos) return name;
  std::string_view path = "/usr/local/bin:/usr/bin:/bin";
  for (const std::string& entry : environment) {
    if (entry.starts_with("PATH=")) path = std::string_view(entry).substr(5);
  }
  while (!path.empty()) {
    const size_t end = std::min(path.find(':'), path.size());
    std::string file = std::string(path.substr(0, end)) + "/" + name;
    struct stat status {};
    if (end > 0 && access(file.c_str(), X_OK) == 0 && stat(file.c_str(), &status) == 0 &&
        S_ISREG(status.st_mode)) {
      return file;
    }
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return name;
}

}  // namespace fermata::spank_plugin
