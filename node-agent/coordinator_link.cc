#include "node-agent/coordinator_link.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <unordered_map>
#include <utility>

#include "common/log.h"
#include "node-agent/coordinator_stream.h"
#include "proto/channel.h"
#include "proto/protocol.h"

namespace fermata::node_agent {
namespace {

using SteadyClock = std::chrono::steady_clock;

Result<std::string> fresh_nonce() {
  std::string nonce(16, '\0');
  if (::getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size())) {
    return errno_failure(errno, "getrandom");
  }
  return nonce;
}

/// What one stream brought and nobody has taken yet. It may outlive the link by what gRPC still has
/// to say.
class Inbox {
 public:
  void put(wire::ToAgent message) {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_one();
  }
  void end(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    end_ = status;
    changed_.notify_one();
  }
  /// Ends every wait from now on, but for wait_for_end().
  void interrupt() {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_one();
  }
  /// The next message; none at the end of the stream, at `deadline` and when interrupted.
  std::optional<wire::ToAgent> next(std::optional<SteadyClock::time_point> deadline) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return interrupted_ || end_ || !messages_.empty(); };
    if (deadline) {
      changed_.wait_until(lock, *deadline, ready);
    } else {
      changed_.wait(lock, ready);
    }
    if (interrupted_ || messages_.empty()) return std::nullopt;
    wire::ToAgent message = std::move(messages_.front());
    messages_.pop_front();
    return message;
  }
  bool ended() {
    const std::lock_guard lock(mutex_);
    return end_.has_value();
  }
  grpc::Status wait_for_end() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return end_.has_value(); });
    return *end_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<wire::ToAgent> messages_;
  std::optional<grpc::Status> end_;
  bool interrupted_ = false;
};

/// Pauses between attempts: each twice the one before.
class BackOff {
 public:
  BackOff(std::chrono::milliseconds first, std::chrono::milliseconds longest)
      : first_(first), longest_(longest), next_(first) {}

  void begin_again() { next_ = first_; }
  std::chrono::milliseconds next() {
    const auto pause = next_;
    next_ = std::min(2 * next_, longest_);
    // So that a thousand agents do not come back at once.
    std::uniform_int_distribution<int64_t> less(0, pause.count() / 2);
    return pause - std::chrono::milliseconds(less(random_));
  }

 private:
  const std::chrono::milliseconds first_;
  const std::chrono::milliseconds longest_;
  std::chrono::milliseconds next_;
  std::minstd_rand random_{std::random_device{}()};
};

/// A line when the coordinator is lost, when the reason changes, and when it is back.
class AttemptLog {
 public:
  explicit AttemptLog(std::string peer) : peer_(std::move(peer)) {}

  void attached() {
    if (failures_ == 0) {
      log_info(fmt::format("attached to {}", peer_));
    } else {
      const auto away =
          std::chrono::duration_cast<std::chrono::seconds>(SteadyClock::now() - since_);
      log_warning(fmt::format("{} is back after {} s", peer_, away.count()));
    }
    failures_ = 0;
  }
  void failed(const Status& status) {
    if (failures_++ == 0) since_ = SteadyClock::now();
    if (failures_ > 1 && status.code() == last_) return;
    last_ = status.code();
    log_warning(fmt::format("{}; trying again until it works", status.message()));
  }

 private:
  const std::string peer_;  ///< what and where
  uint64_t failures_ = 0;
  SteadyClock::time_point since_;
  Code last_ = Code::kOk;
};

}  // namespace

struct CoordinatorLink::Parts {
  Parts(LinkOptions the_options, Authenticator& the_authenticator, LinkEvents the_events)
      : options(std::move(the_options)),
        authenticator(the_authenticator),
        events(std::move(the_events)),
        peer(fmt::format("{} at {}", options.peer, options.coordinator)),
        log(peer) {}

  /// The link's thread.
  void run();
  /// One stream from hello to its end: why it ended.
  Status one_stream();
  Status why_ended(const grpc::Status& end, bool stood) const;
  /// Serves the stream until it ends, or says why it must.
  Status serve(Inbox& messages, const std::string& nonce);
  Result<wire::Welcome> check_welcome(const wire::ToAgent& message, const std::string& nonce);
  void deliver(wire::ToAgent message);
  bool send(wire::FromAgent message);
  /// Waits; true when it is time to stop.
  bool pause(std::chrono::milliseconds duration);

  const LinkOptions options;
  Authenticator& authenticator;
  const LinkEvents events;
  const std::string peer;  ///< what and where
  AttemptLog log;
  std::thread thread;

  std::mutex mutex;
  std::condition_variable stop_wanted;
  bool stopping = false;
  std::shared_ptr<Inbox> inbox;               ///< of the stream there is
  std::shared_ptr<CoordinatorStream> stream;  ///< being opened or open
  bool attached = false;
  /// Orders of this stream that are not answered: our number for each, and the coordinator's, which
  /// begins anew with each stream.
  std::unordered_map<uint64_t, uint64_t> open_orders;
  uint64_t last_order = 0;
};

void CoordinatorLink::Parts::run() {
  BackOff back_off(options.first_pause, options.longest_pause);
  do {
    const auto begun = SteadyClock::now();
    const Status why = one_stream();
    // A stream that stood for a moment only is no reason to hurry.
    if (SteadyClock::now() - begun > options.longest_pause) back_off.begin_again();
    const std::lock_guard lock(mutex);
    if (!stopping) log.failed(why);
  } while (!pause(back_off.next()));
}

bool CoordinatorLink::Parts::pause(std::chrono::milliseconds duration) {
  std::unique_lock lock(mutex);
  return stop_wanted.wait_for(lock, duration, [this] { return stopping; });
}

Status CoordinatorLink::Parts::one_stream() {
  wire::Hello hello = events.hello();
  hello.set_version(options.version);
  FERMATA_ASSIGN_STATUS(const std::string nonce, fresh_nonce());
  hello.set_nonce(nonce);
  wire::FromAgent first;
  first.mutable_hello()->set_request(hello.SerializeAsString());
  FERMATA_ASSIGN_STATUS(*first.mutable_hello()->mutable_credential(),
                        authenticator.make(wire::kAttach, first.hello().request()));

  // A channel for each stream: gRPC's own back-off between connections is out of the way.
  const auto messages = std::make_shared<Inbox>();
  const auto opened = std::make_shared<CoordinatorStream>(
      wire::open_channel(options.coordinator, options.silence),
      CoordinatorStream::Events{
          .message = [messages](wire::ToAgent message) { messages->put(std::move(message)); },
          .ended = [messages](const grpc::Status& status) { messages->end(status); }});
  {
    const std::lock_guard lock(mutex);
    if (stopping) return Status::ok();
    inbox = messages;
    stream = opened;
  }
  opened->begin(std::move(first));
  Status why = serve(*messages, nonce);
  opened->cancel();
  const grpc::Status end = messages->wait_for_end();

  bool stood = false;
  {
    const std::lock_guard lock(mutex);
    stood = std::exchange(attached, false);
    open_orders.clear();
    stream.reset();
    inbox.reset();
    if (stopping) return Status::ok();
  }
  if (why.is_ok()) why = why_ended(end, stood);
  if (stood) events.lost(why);
  return why;
}

Status CoordinatorLink::Parts::why_ended(const grpc::Status& end, bool stood) const {
  const std::string& where = options.coordinator;
  const bool gone = end.ok() || end.error_code() == grpc::StatusCode::UNAVAILABLE;
  if (stood && gone) {
    return {Code::kGone, fmt::format("lost {}: {}", peer,
                                     end.ok() ? "it ended the stream" : end.error_message())};
  }
  if (end.ok()) return {Code::kGone, fmt::format("{} ended the stream", peer)};
  const Status status = wire::status_of(end, where);
  return gone ? status : status.within(fmt::format("{} refuses this agent", peer));
}

Status CoordinatorLink::Parts::serve(Inbox& messages, const std::string& nonce) {
  const auto first = messages.next(SteadyClock::now() + options.welcome_within);
  if (!first) {
    if (messages.ended()) return Status::ok();
    return {Code::kTimeout, fmt::format("{} accepted no stream within {} s", peer,
                                        options.welcome_within.count() / 1000)};
  }
  const auto welcome = check_welcome(*first, nonce);
  if (!welcome) {
    return welcome.error().within(
        fmt::format("who answers at {} is no coordinator of ours", options.coordinator));
  }
  {
    const std::lock_guard lock(mutex);
    if (stopping) return Status::ok();
    attached = true;
  }
  log.attached();
  events.attached(*welcome);
  while (auto message = messages.next(std::nullopt)) deliver(*std::move(message));
  return Status::ok();
}

Result<wire::Welcome> CoordinatorLink::Parts::check_welcome(const wire::ToAgent& message,
                                                            const std::string& nonce) {
  const wire::Signed& signed_welcome = message.welcome();
  FERMATA_ASSIGN(const Identity who, authenticator.check(signed_welcome.credential(), wire::kAttach,
                                                         signed_welcome.request()));
  if (!options.admins.contains(who.uid)) {
    return failure(
        Code::kPermission,
        fmt::format("its welcome is signed by uid {}, not by root or SlurmUser", who.uid));
  }
  wire::Welcome welcome;
  if (!welcome.ParseFromString(signed_welcome.request()) || welcome.nonce() != nonce) {
    return failure(Code::kPermission, "its welcome is not the answer to our hello");
  }
  if (welcome.version() != options.version) {
    return failure(Code::kUnsupported,
                   fmt::format("it is of version {}, this agent of version {}: install the same "
                               "version on both",
                               welcome.version(), options.version));
  }
  return welcome;
}

void CoordinatorLink::Parts::deliver(wire::ToAgent message) {
  switch (message.kind_case()) {
    case wire::ToAgent::kOrder: {
      wire::Order order = std::move(*message.mutable_order());
      {
        const std::lock_guard lock(mutex);
        open_orders.emplace(++last_order, order.id());
        order.set_id(last_order);
      }
      events.order(std::move(order));
      break;
    }
    case wire::ToAgent::kExchange:
      events.exchange(std::move(*message.mutable_exchange()));
      break;
    default:
      log_warning("the coordinator sent a message of no known kind; it is left out");
  }
}

bool CoordinatorLink::Parts::send(wire::FromAgent message) {
  const std::lock_guard lock(mutex);
  if (!attached) return false;
  if (message.has_done()) {
    const auto open = open_orders.find(message.done().order());
    if (open == open_orders.end()) return false;
    message.mutable_done()->set_order(open->second);
    open_orders.erase(open);
  }
  stream->send(std::move(message));
  return true;
}

CoordinatorLink::CoordinatorLink(LinkOptions options, Authenticator& authenticator,
                                 LinkEvents events)
    : parts_(std::make_unique<Parts>(std::move(options), authenticator, std::move(events))) {}

CoordinatorLink::~CoordinatorLink() { stop(); }

void CoordinatorLink::start() {
  parts_->thread = std::thread([this] { parts_->run(); });
}

bool CoordinatorLink::send(wire::FromAgent message) { return parts_->send(std::move(message)); }

bool CoordinatorLink::attached() const {
  const std::lock_guard lock(parts_->mutex);
  return parts_->attached;
}

void CoordinatorLink::stop() {
  {
    const std::lock_guard lock(parts_->mutex);
    parts_->stopping = true;
    if (parts_->inbox) parts_->inbox->interrupt();
    parts_->stop_wanted.notify_all();
  }
  if (parts_->thread.joinable()) parts_->thread.join();
}

}  // namespace fermata::node_agent
