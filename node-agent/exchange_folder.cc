#include "node-agent/exchange_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "common/log.h"
#include "common/unique_fd.h"
#include "node-agent/exchange_files.h"
#include "node-agent/pod/exchange_layout.h"
#include "proto/pod_id.h"

namespace fermata::node_agent {
namespace {

using Clock = std::chrono::steady_clock;

// While podinit has not made its folders, and while the inbox has no room.
constexpr std::chrono::milliseconds kRetry{20};
// The outbox is not looked at more often than this: a user who writes there without end gets no
// more of the agent's time.
constexpr std::chrono::microseconds kBetweenScans{500};
// Nor is more taken from it in a second: what waits for the stream lies in our memory.
constexpr int64_t kBytesPerSecond = int64_t{256} << 20;
// Messages kept for a pod that does not take them.
constexpr size_t kMaxPending = pod::kMaxInboxFiles;

bool same_pod(const wire::PodId& a, const PodId& b) {
  return a.job() == b.step.job && a.step() == b.step.step && a.pod() == b.pod &&
         a.start() == b.start;
}

}  // namespace

/// The thread, and what other threads ask of it. Members above the mutex belong to the thread.
class ExchangeFolder::Worker {
 public:
  Worker(UniqueFd pidfd, UniqueFd root, const PodId& pod, Credentials owner, Sender sender)
      : pidfd_(std::move(pidfd)),
        files_(std::move(root)),
        pod_(pod),
        owner_(std::move(owner)),
        sender_(std::move(sender)),
        changes_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake();
    if (thread_.joinable()) thread_.join();
  }

  Status start() {
    if (!changes_ || !wake_) return errno_status(errno, "an inotify and an eventfd for the pod");
    std::promise<Status> started;
    std::future<Status> outcome = started.get_future();
    thread_ = std::thread([this, &started] { run(started); });
    return outcome.get();
  }

  void deliver(wire::ExchangeDown message) {
    if (!same_pod(message.pod(), pod_) || message.ByteSizeLong() > pod::kMaxExchangeFile) {
      log_warning(fmt::format("pod {}: a message that is too big or for another pod is dropped",
                              to_string(pod_)));
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      if (pending_.size() >= kMaxPending) {
        log_warning(fmt::format("pod {}: it takes no messages; one is dropped", to_string(pod_)));
        return;
      }
      pending_.push_back(std::move(message));
    }
    wake();
  }

  void resend() {
    {
      const std::lock_guard lock(mutex_);
      resend_ = true;
    }
    wake();
  }

  Status hold(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    held_ = true;
    if (idle_.wait_for(lock, patience, [this] { return !writing_; })) return Status::ok();
    held_ = false;
    return {Code::kTimeout,
            fmt::format("pod {}: writing to its /dev/shm does not come to an end; it lies on a "
                        "file system that does not answer, or is full",
                        to_string(pod_))};
  }

  void release() {
    {
      const std::lock_guard lock(mutex_);
      held_ = false;
    }
    wake();
  }

 private:
  /// What a user does to the folders must not fill the log.
  void complain(const std::string& what) {
    const std::string line = fmt::format("pod {}: {}", to_string(pod_), what);
    if (std::exchange(complained_, true)) {
      log_debug(line);
    } else {
      log_warning(line);
    }
  }

  void wake() { (void)eventfd_write(wake_.get(), 1); }

  void run(std::promise<Status>& started) {
    const Result<FsCredentialScope> scope = FsCredentialScope::enter(owner_);
    started.set_value(scope ? Status::ok() : scope.error());
    if (!scope) return;
    while (step()) {
    }
  }

  /// One round of looking and doing; false when there will be no other.
  bool step() {
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      last = ending_;
      if (std::exchange(resend_, false)) {
        sends_ = true;
        sent_.clear();
      }
    }
    if (!files_.is_open() && !last) open_folders();
    if (files_.is_open()) {
      if (sends_) send_outbox();
      if (!last) write_inbox();
    }
    if (!last) wait();
    return !last;
  }

  void open_folders() {
    const Status opened = files_.open();
    if (!opened) {
      retry_ = true;
      if (opened.code() != Code::kNotFound) complain(opened.message());
      return;
    }
    // Before the first look, so that no message falls between the two.
    const std::string path = fmt::format("/proc/self/fd/{}", files_.outbox());
    if (inotify_add_watch(changes_.get(), path.c_str(), IN_MOVED_TO | IN_ONLYDIR) < 0) {
      complain(errno_status(errno, "watching its outbox").message());
    }
    // It may have unread messages of the time before a restart.
    wake_podinit();
  }

  void send_outbox() {
    std::array<char, 4096> events;
    while (read(changes_.get(), events.data(), events.size()) > 0) {
    }
    const Result<std::vector<uint64_t>> names = files_.list_outbox();
    if (!names) {
      complain(names.error().message());
      return;
    }
    std::set<uint64_t> there;
    for (const uint64_t name : *names) {
      // What is gone from the folder is forgotten here, too.
      there.insert(name);
      if (!sent_.contains(name)) send(name);
    }
    sent_ = std::move(there);
  }

  void send(uint64_t name) {
    const Result<std::optional<std::string>> text = files_.read(name);
    wire::ExchangeUp message;
    if (text && !*text) return;
    if (!text || !message.ParseFromString(**text)) {
      complain(fmt::format("message {} of its outbox {}", name,
                           text ? "is none" : text.error().message()));
      return;
    }
    *message.mutable_pod() = wire::to_wire(pod_);
    // Only agents speak for several pods.
    if (message.has_contribution()) message.mutable_contribution()->clear_parts();
    const bool ended = message.has_rank_ended();
    const uint32_t rank = message.rank_ended().rank();
    sender_(std::move(message));
    if (ended) say_heard(rank);
    const auto bytes = static_cast<int64_t>((*text)->size());
    std::this_thread::sleep_for(std::chrono::microseconds(bytes * 1'000'000 / kBytesPerSecond));
  }

  /// What is written in this round of the thread, unless the pod is held.
  void say_heard(uint32_t rank) {
    wire::ExchangeDown heard;
    *heard.mutable_pod() = wire::to_wire(pod_);
    heard.mutable_end_heard()->set_rank(rank);
    const std::lock_guard lock(mutex_);
    // Others' words must not keep it from being said; a rank is told of once.
    const bool waits = std::any_of(pending_.begin(), pending_.end(), [&](const auto& message) {
      return message.has_end_heard() && message.end_heard().rank() == rank;
    });
    if (!waits && pending_.size() < 2 * kMaxPending) pending_.push_front(std::move(heard));
  }

  void write_inbox() {
    bool any = false;
    while (std::optional<wire::ExchangeDown> message = next_pending()) {
      const Status written = files_.write(message->SerializeAsString());
      any = any || written.is_ok();
      const bool again = !written && !gone_;
      if (again) {
        retry_ = true;
        complain(written.message() + "; tried again");
      }
      done_writing(again ? std::move(message) : std::nullopt);
      if (!written) break;
    }
    if (any) wake_podinit();
  }

  std::optional<wire::ExchangeDown> next_pending() {
    const std::lock_guard lock(mutex_);
    if (held_ || ending_ || pending_.empty()) return std::nullopt;
    writing_ = true;
    wire::ExchangeDown message = std::move(pending_.front());
    pending_.pop_front();
    return message;
  }

  /// `failed`: what has to be tried again.
  void done_writing(std::optional<wire::ExchangeDown> failed) {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (failed) pending_.push_front(*std::move(failed));
    idle_.notify_all();
  }

  void wake_podinit() {
    // ESRCH: it has ended.
    (void)syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGRTMIN, nullptr, 0);
  }

  void wait() {
    std::this_thread::sleep_for(kBetweenScans);
    std::array<pollfd, 3> sources{{{sends_ ? changes_.get() : -1, POLLIN, 0},
                                   {wake_.get(), POLLIN, 0},
                                   {gone_ ? -1 : pidfd_.get(), POLLIN, 0}}};
    const int timeout =
        std::exchange(retry_, false) && !gone_ ? static_cast<int>(kRetry.count()) : -1;
    poll(sources.data(), sources.size(), timeout);
    eventfd_t count = 0;
    (void)eventfd_read(wake_.get(), &count);
    // Its last words are read in the next round; then only the destructor is waited for.
    if (sources[2].revents != 0) gone_ = true;
  }

  UniqueFd pidfd_;
  ExchangeFiles files_;
  PodId pod_;
  Credentials owner_;
  Sender sender_;
  UniqueFd changes_;
  UniqueFd wake_;
  std::set<uint64_t> sent_;
  bool sends_ = false;  ///< resend() has been called
  bool retry_ = false;
  bool gone_ = false;
  bool complained_ = false;

  std::mutex mutex_;
  std::condition_variable idle_;
  std::deque<wire::ExchangeDown> pending_;
  bool resend_ = false;
  bool held_ = false;
  bool writing_ = false;
  bool ending_ = false;
  std::thread thread_;
};

Result<std::unique_ptr<ExchangeFolder>> ExchangeFolder::start(pid_t init, const PodId& pod,
                                                              const Credentials& owner,
                                                              Sender sender) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, init, 0)));
  if (!pidfd) return errno_failure(errno, fmt::format("pidfd_open of process {}", init));
  // With our own rights: this link is the kernel's. What lies behind it is looked up with the
  // owner's.
  const std::string path = fmt::format("/proc/{}/root", init);
  UniqueFd root(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  // A process that ends leaves its root (exit_fs) before its pidfd tells that it has ended.
  if (!root && errno == ENOENT) {
    return failure(Code::kGone, fmt::format("pod {}: it has ended", to_string(pod)));
  }
  if (!root) return errno_failure(errno, path);
  auto worker =
      std::make_unique<Worker>(std::move(pidfd), std::move(root), pod, owner, std::move(sender));
  FERMATA_TRY_RESULT(worker->start());
  return std::unique_ptr<ExchangeFolder>(new ExchangeFolder(std::move(worker)));
}

ExchangeFolder::ExchangeFolder(std::unique_ptr<Worker> worker) : worker_(std::move(worker)) {}
ExchangeFolder::~ExchangeFolder() = default;

void ExchangeFolder::deliver(wire::ExchangeDown message) { worker_->deliver(std::move(message)); }
void ExchangeFolder::resend() { worker_->resend(); }
Status ExchangeFolder::hold(std::chrono::milliseconds patience) { return worker_->hold(patience); }
void ExchangeFolder::release() { worker_->release(); }

}  // namespace fermata::node_agent
