// Speaks to a coordinator as no honest client would: stranger CASE HOST:PORT JOB
//
//   good              a proper `Jobs`; shows that the rest is refused for its own sake
//   checkpoint        a proper Checkpoint of JOB (with $FERMATA_MUNGE_SOCKET: as another cluster's
//   user) none              Checkpoint of JOB without a credential garbage           ... with
//   something that is no credential replayed          Able of JOB, twice with the same credential:
//   the first must do expired           ... with one of a second's life, three seconds old
//   other_request     ... with one made for another job
//   other_method      ... with one made for Able of the same job
//   agent             an agent's stream, proper but for its version
//   agent_user        an agent's stream of a caller who is not root (run it as one)
//
// Prints what the coordinator said and exits 0 when it did as it was asked, 3 when it refused, 1
// when neither.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <munge.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "common/munge.h"
#include "proto/channel.h"
#include "proto/control.grpc.pb.h"
#include "proto/protocol.h"

namespace fermata {
namespace {

using std::chrono::seconds;

constexpr int kDone = 0;
constexpr int kNeither = 1;
constexpr int kRefused = 3;

[[noreturn]] void give_up(const std::string& sentence) {
  fmt::print(stderr, "stranger: {}\n", sentence);
  std::exit(kNeither);
}

std::string credential(std::string_view method, const std::string& request) {
  const Result<std::string> made = make_credential(munge_socket(Config{}), method, request);
  if (!made) give_up(made.error().message());
  return *made;
}

std::string short_lived(std::string_view method, const std::string& request) {
  const std::string payload = credential_payload(method, request);
  munge_ctx_t context = munge_ctx_create();
  char* text = nullptr;
  if (munge_ctx_set(context, MUNGE_OPT_TTL, 1) != EMUNGE_SUCCESS ||
      munge_encode(&text, context, payload.data(), static_cast<int>(payload.size())) !=
          EMUNGE_SUCCESS) {
    give_up("munge makes no credential of a second's life");
  }
  std::string made(text);
  std::free(text);
  munge_ctx_destroy(context);
  return made;
}

class Stranger {
 public:
  Stranger(const std::string& address, uint64_t job)
      : stub_(wire::Coordinator::NewStub(wire::open_channel(address, seconds(10)))) {
    wire::JobRequest of_job;
    of_job.set_job(job);
    of_job.SerializeToString(&able_);
    wire::CheckpointRequest checkpoint;
    checkpoint.set_job(job);
    checkpoint.SerializeToString(&checkpoint_);
    checkpoint.set_job(job + 1);
    checkpoint.SerializeToString(&checkpoint_of_other_);
  }

  int good() const {
    wire::Signed request;
    request.set_credential(credential(wire::kJobs, ""));
    wire::JobsReply reply;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Jobs(&context, request, &reply);
    return tell(status, reply.outcome());
  }

  int checkpoint(const std::string& with) const {
    wire::Signed request;
    request.set_request(checkpoint_);
    request.set_credential(with);
    wire::CheckpointReply reply;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Checkpoint(&context, request, &reply);
    return tell(status, reply.outcome());
  }

  /// The same request and credential twice: the first must do.
  int replayed() const {
    wire::Signed request;
    request.set_request(able_);
    request.set_credential(credential(wire::kAble, able_));
    for (const bool first : {true, false}) {
      wire::AbleReply reply;
      grpc::ClientContext context;
      const grpc::Status status = stub_->Able(&context, request, &reply);
      const int outcome = tell(status, reply.outcome());
      if (first && outcome != kDone) give_up("the first use was refused");
      if (!first) return outcome;
    }
    return kNeither;
  }

  int agent(const std::string& version) const {
    wire::Hello hello;
    hello.set_version(version);
    hello.set_node("stranger");
    hello.set_nonce(std::string(16, 'n'));
    hello.set_slots(64);
    wire::FromAgent first;
    hello.SerializeToString(first.mutable_hello()->mutable_request());
    first.mutable_hello()->set_credential(credential(wire::kAttach, first.hello().request()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(30));
    const auto stream = stub_->Attach(&context);
    wire::ToAgent answer;
    const bool welcome = stream->Write(first) && stream->Read(&answer) && answer.has_welcome();
    if (welcome) context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (!welcome) return tell(status, wire::Outcome());
    fmt::print("welcome\n");
    return kDone;
  }

  const std::string& checkpoint_request() const { return checkpoint_; }
  const std::string& other_checkpoint_request() const { return checkpoint_of_other_; }

 private:
  static int tell(const grpc::Status& status, const wire::Outcome& outcome) {
    fmt::print("{}: {} {}\n", static_cast<int>(status.error_code()), status.error_message(),
               outcome.message());
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) return kNeither;
    return status.ok() && outcome.code() == 0 ? kDone : kRefused;
  }

  std::unique_ptr<wire::Coordinator::Stub> stub_;
  std::string able_;
  std::string checkpoint_;
  std::string checkpoint_of_other_;
};

int run(std::string_view name, const Stranger& stranger) {
  if (name == "good") return stranger.good();
  if (name == "checkpoint") {
    return stranger.checkpoint(credential(wire::kCheckpoint, stranger.checkpoint_request()));
  }
  if (name == "none") return stranger.checkpoint("");
  if (name == "garbage") return stranger.checkpoint("MUNGE:AwQFAAAB:");
  if (name == "replayed") return stranger.replayed();
  if (name == "expired") {
    const std::string old = short_lived(wire::kCheckpoint, stranger.checkpoint_request());
    std::this_thread::sleep_for(seconds(3));  // munge counts whole seconds
    return stranger.checkpoint(old);
  }
  if (name == "other_request") {
    return stranger.checkpoint(credential(wire::kCheckpoint, stranger.other_checkpoint_request()));
  }
  if (name == "other_method") {
    return stranger.checkpoint(credential(wire::kAble, stranger.checkpoint_request()));
  }
  if (name == "agent") return stranger.agent("0.0.9");
  if (name == "agent_user") return stranger.agent(FERMATA_VERSION);
  give_up(fmt::format("no case {}", name));
}

}  // namespace
}  // namespace fermata

int main(int argc, char** argv) {
  if (argc != 4) fermata::give_up("stranger CASE HOST:PORT JOB");
  const fermata::Stranger stranger(argv[2], std::strtoull(argv[3], nullptr, 10));
  return fermata::run(argv[1], stranger);
}
