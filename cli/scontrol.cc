// fermata scontrol -- OPERATION ID [WORD...]: what `scontrol checkpoint` had up to Slurm 17.11, for
// the front end scripts/scontrol. Words, abbreviations and answers are those of that release
// (scontrol(1)); two things differ on purpose: a bad operation or id is a failure, and vacate and
// requeue end a job only once its set is committed.
#include <fmt/format.h>
#include <strings.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <sstream>

#include "cli/command.h"
#include "cli/coordinator.h"
#include "cli/slurm_job.h"
#include "cli/steps.h"
#include "proto/outcome.h"
#include "slurm/client.h"
#include "storage/printable.h"

namespace fermata::cli {
namespace {

enum class Operation { kAble, kDisable, kEnable, kCreate, kRequeue, kVacate, kRestart, kError };

struct Word {
  std::string_view name;
  size_t shortest;  ///< letters that will do
  Operation operation;
};

/// In the order in which they were looked for: "re" is requeue.
constexpr std::array<Word, 8> kWords{{
    {"able", 1, Operation::kAble},
    {"disable", 1, Operation::kDisable},
    {"enable", 2, Operation::kEnable},
    {"create", 2, Operation::kCreate},
    {"requeue", 2, Operation::kRequeue},
    {"vacate", 2, Operation::kVacate},
    {"restart", 2, Operation::kRestart},
    {"error", 2, Operation::kError},
}};

struct Options {
  std::vector<std::string> words;
  bool quiet = false;
};

/// What follows the id.
struct Extras {
  uint64_t max_wait_ms = 0;
  std::string image_dir;
  bool stick = false;
};

bool has_prefix(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         strncasecmp(text.data(), prefix.data(), prefix.size()) == 0;
}

const Word* word_of(std::string_view text) {
  for (const Word& word : kWords) {
    if (text.size() >= word.shortest && has_prefix(word.name, text)) return &word;
  }
  return nullptr;
}

/// Slurm's sentence for what went wrong, as far as it has one.
std::string_view slurm_sentence(const Status& status, bool disabled) {
  switch (status.code()) {
    case Code::kPermission:
      return "Access/permission denied";
    case Code::kNotFound:
      return "Invalid job id specified";
    case Code::kBusy:
      return disabled ? "Requested operation is presently disabled" : std::strerror(EALREADY);
    case Code::kGone:
      return "Job/step already completing or completed";
    case Code::kTimeout:
      return std::strerror(ETIMEDOUT);
    default:
      return "";
  }
}

class FrontEnd {
 public:
  FrontEnd(CoordinatorAccess& access, const Options& options)
      : access_(access), options_(options) {}

  int refuse(const std::string& sentence) const {
    if (!options_.quiet) {
      std::fprintf(stderr, "%s\n", storage::printable(sentence).c_str());
    }
    return 1;
  }

  int run() {
    const Word* word = word_of(options_.words[0]);
    if (word == nullptr) {
      return refuse("Invalid checkpoint operation: " + options_.words[0]);
    }
    const std::string& id = options_.words[1];
    if (!parse_job_step(id)) return refuse("Invalid job step name");
    if (!take_extras(word->operation)) return 1;
    const Result<NamedSteps> named = steps_of(access_, id);
    if (!named) return error(named.error());
    steps_ = named->steps;
    switch (word->operation) {
      case Operation::kAble:
        return able();
      case Operation::kError:
        return last_error();
      default:
        break;
    }
    if (named->slurm_job() && moves(word->operation)) {
      const Status status = move_by_slurm(word->operation);
      return status ? 0 : error(status);
    }
    int exit_status = 0;
    for (const JobStep step : steps_) {
      const Status status = carry_out(word->operation, step);
      if (!status) exit_status = error(status, disabled(step));
    }
    return exit_status;
  }

 private:
  bool take_extras(Operation operation) {
    const bool set = operation == Operation::kCreate || operation == Operation::kVacate ||
                     operation == Operation::kRequeue;
    const bool restart = operation == Operation::kRestart;
    for (size_t i = 2; i < options_.words.size(); ++i) {
      const std::string& text = options_.words[i];
      if (set && has_prefix(text, "MaxWait=")) {
        uint64_t seconds = 0;
        const char* end = text.data() + text.size();
        const auto read = std::from_chars(text.data() + std::strlen("MaxWait="), end, seconds);
        constexpr uint64_t kMost = UINT16_MAX;
        if (read.ec == std::errc() && read.ptr == end && seconds <= kMost) {
          extras_.max_wait_ms = seconds * 1000;
          continue;
        }
      } else if ((set || restart) && has_prefix(text, "ImageDir=")) {
        extras_.image_dir = text.substr(std::strlen("ImageDir="));
        if (extras_.image_dir.starts_with('/')) continue;
      } else if (restart && text.size() >= std::strlen("Stick") && has_prefix(text, "Stick")) {
        extras_.stick = true;
        continue;
      }
      refuse("Invalid input: " + text);
      refuse("Request aborted");
      return false;
    }
    return true;
  }

  int error(const Status& status, bool disabled = false) const {
    const std::string_view known = slurm_sentence(status, disabled);
    return refuse(fmt::format("scontrol_checkpoint error: {}{}{}", known, known.empty() ? "" : ": ",
                              status.message()));
  }

  Result<wire::ControlReply> control(JobStep step, wire::ControlRequest::Action action) {
    wire::ControlRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_action(action);
    FERMATA_ASSIGN(wire::ControlReply reply, access_.client().control(request));
    FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
    return reply;
  }

  bool disabled(JobStep step) {
    const auto reply = control(step, wire::ControlRequest::TELL);
    return reply && reply->disabled() > 0;
  }

  int able() {
    std::string reasons;
    for (const JobStep step : steps_) {
      const auto state = control(step, wire::ControlRequest::TELL);
      if (!state) return error(state.error());
      if (state->began() != 0) {
        const std::time_t began = state->began();
        tm local{};
        localtime_r(&began, &local);
        std::array<char, 32> text{};
        std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &local);
        std::puts(fmt::format("Began at {}", text.data()).c_str());
        return 0;
      }
      wire::JobRequest request;
      request.set_job(step.job);
      request.set_step(step.step);
      const auto reply = access_.client().able(request);
      if (!reply) return error(reply.error());
      const Status status = wire::to_status(reply->outcome());
      if (status.code() == Code::kPermission || status.code() == Code::kNotFound) {
        return error(status);
      }
      if (!status) reasons += status.message() + "\n";
    }
    std::puts(reasons.empty() ? "Yes" : "No");
    std::istringstream lines(reasons);
    for (std::string line; std::getline(lines, line);) {
      std::puts(storage::printable(line).c_str());
    }
    return 0;
  }

  int last_error() {
    wire::ControlReply last;
    for (const JobStep step : steps_) {
      auto reply = control(step, wire::ControlRequest::TELL);
      if (!reply) return error(reply.error());
      if (reply->last_time() >= last.last_time()) last = *std::move(reply);
    }
    const std::string message =
        last.last_time() == 0 ? "no checkpoint was asked for" : last.last_message();
    std::puts(fmt::format("error({}): {}", last.last_code(), storage::printable(message)).c_str());
    return 0;
  }

  Status checkpoint(JobStep step, bool end_job) {
    wire::CheckpointRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_end_job(end_job);
    request.set_if_idle(true);
    request.set_max_wait_ms(extras_.max_wait_ms);
    request.set_checkpoint_dir(extras_.image_dir);
    FERMATA_ASSIGN_STATUS(const wire::CheckpointReply reply, access_.client().checkpoint(request));
    return wire::to_status(reply.outcome());
  }

  Status requeue(JobStep step) {
    wire::RequeueRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_if_idle(true);
    request.set_max_wait_ms(extras_.max_wait_ms);
    request.set_checkpoint_dir(extras_.image_dir);
    FERMATA_ASSIGN_STATUS(const wire::RequeueReply reply, access_.client().requeue(request));
    return wire::to_status(reply.outcome());
  }

  static bool moves(Operation operation) {
    return operation == Operation::kVacate || operation == Operation::kRequeue;
  }

  /// All steps of a job of Slurm's.
  Status move_by_slurm(Operation operation) {
    SlurmMove move;
    move.requeue = operation == Operation::kRequeue;
    if (move.requeue && !extras_.image_dir.empty()) {
      return {Code::kUsage, "ImageDir: a job that Slurm requeues goes on from its own folder"};
    }
    move.max_wait_ms = extras_.max_wait_ms;
    move.if_idle = true;
    move.checkpoint_dir = extras_.image_dir;
    return move_slurm_job(access_.client(), steps_.front().job, move).status;
  }

  /// A job that Slurm has ended begins again, as itself.
  Status restart_by_slurm(uint64_t job) {
    if (extras_.stick || !extras_.image_dir.empty()) {
      return {Code::kUsage,
              "StickToNodes, ImageDir: Slurm places the job, which goes on from its own folder; "
              "`srun --restart` has more options"};
    }
    const std::string number = std::to_string(job);
    const auto now = ask_slurm({"job", number});
    if (!now) return now.error();
    // Of one that has not ended a requeue would be a restart without a checkpoint.
    if (now->value("state", "") != "ended") {
      return {Code::kBusy, fmt::format("job {} has not ended", number)};
    }
    const auto asked = ask_slurm({"requeue", number});
    return asked ? Status::ok() : asked.error();
  }

  Status restart(JobStep step) {
    const auto last = control(step, wire::ControlRequest::TELL);
    if (!last && last.error().code() == Code::kPermission) return last.error();
    if (last && last->slurm()) return restart_by_slurm(step.job);
    wire::RestartRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_checkpoint_dir(extras_.image_dir);
    request.set_stick(extras_.stick);
    request.set_same_interval(true);
    FERMATA_ASSIGN_STATUS(const wire::RunReply reply, access_.client().restart(request));
    return wire::to_status(reply.outcome());
  }

  Status carry_out(Operation operation, JobStep step) {
    switch (operation) {
      case Operation::kCreate:
        return checkpoint(step, false);
      case Operation::kVacate:
        return checkpoint(step, true);
      case Operation::kRequeue:
        return requeue(step);
      case Operation::kRestart:
        return restart(step);
      default:
        break;
    }
    const auto reply =
        control(step, operation == Operation::kDisable ? wire::ControlRequest::DISABLE
                                                       : wire::ControlRequest::ENABLE);
    return reply ? Status::ok() : reply.error();
  }

  CoordinatorAccess& access_;
  const Options& options_;
  Extras extras_;
  std::vector<JobStep> steps_;
};

Result<int> scontrol(const Invocation& invocation, const Options& options) {
  constexpr size_t kFewest = 2;
  constexpr size_t kMost = 4;
  const auto access = CoordinatorAccess::of(invocation);
  if (!access) return needs_coordinator("scontrol checkpoint");
  FrontEnd front_end(*access, options);
  if (options.words.size() < kFewest) {
    return front_end.refuse("too few arguments for keyword:checkpoint");
  }
  if (options.words.size() > kMost) {
    return front_end.refuse("too many arguments for keyword:checkpoint");
  }
  return front_end.run();
}

}  // namespace

void add_scontrol(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("scontrol",
                                     "Answers `scontrol checkpoint` (scontrol(1) up to "
                                     "Slurm 17.11), for a front end of that name");
  sub->group("");  // not for people
  sub->add_flag("--quiet", options->quiet, "Failures are told by the exit status alone");
  sub->callback([options, &invocation] {
    invocation.action = [options, &invocation] {
      options->words = invocation.after_dashes;
      const Result<int> status = scontrol(invocation, *options);
      return status ? *status : fail(status.error());
    };
  });
}

}  // namespace fermata::cli
