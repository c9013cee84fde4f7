#include "node-agent/pod/podinit/folder_exchange.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "common/file_util.h"
#include "common/unique_fd.h"
#include "node-agent/pod/exchange_layout.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kFailed = -1;  // PMIX_ERROR
constexpr const char* kUnfinished = ".podinit";

}  // namespace

FolderExchange::FolderExchange(fs::path out, fs::path in, Mailbox& mailbox, Handlers handlers)
    : out_(std::move(out)), in_(std::move(in)), mailbox_(mailbox), handlers_(std::move(handlers)) {}

void FolderExchange::gather(CollectivePart part, GatherAnswer answer) {
  mailbox_.call([this, part = std::move(part), answer = std::move(answer)]() mutable {
    contribute(part, std::move(answer));
  });
}

void FolderExchange::fetch(uint32_t rank, Answer answer) {
  wire::FetchRequest request;
  request.set_rank(rank);
  mailbox_.call([this, request = std::move(request), answer = std::move(answer)]() mutable {
    ask(std::move(request), std::move(answer));
  });
}

void FolderExchange::call_names(uint32_t server, std::string call, Answer answer) {
  wire::FetchRequest request;
  request.set_server(server);
  request.set_names(std::move(call));
  mailbox_.call([this, request = std::move(request), answer = std::move(answer)]() mutable {
    ask(std::move(request), std::move(answer));
  });
}

void FolderExchange::rank_ended(uint32_t rank, int wait_status) {
  wire::ExchangeUp message;
  message.mutable_rank_ended()->set_rank(rank);
  message.mutable_rank_ended()->set_wait_status(wait_status);
  const Result<uint64_t> file = write(message);
  if (!file) handlers_.say(file.error().message());
}

void FolderExchange::abort(int32_t status, const std::string& reason) {
  wire::ExchangeUp message;
  message.mutable_abort()->set_status(status);
  message.mutable_abort()->set_reason(reason);
  const Result<uint64_t> file = write(message);
  if (!file) handlers_.say(file.error().message());
}

void FolderExchange::contribute(const CollectivePart& part, GatherAnswer answer) {
  Collective& collective = collectives_[part.key];
  wire::ExchangeUp message;
  wire::Contribution* contribution = message.mutable_contribution();
  contribution->set_key(part.key);
  contribution->mutable_pods()->Assign(part.pods.begin(), part.pods.end());
  contribution->set_blob(part.blob);
  contribution->set_number(++collective.number);
  contribution->set_status(part.status);
  const Result<uint64_t> file = write(message);
  if (!file) {
    handlers_.say(file.error().message());
    answer(kFailed, {});
    return;
  }
  collective.under_way[collective.number] = {*file, std::move(answer)};
}

void FolderExchange::ask(wire::FetchRequest request, Answer answer) {
  request.set_number(++requests_made_);
  request.set_settled(requests_.empty() ? requests_made_ : requests_.begin()->first);
  wire::ExchangeUp message;
  *message.mutable_fetch() = std::move(request);
  const Result<uint64_t> file = write(message);
  if (!file) {
    handlers_.say(file.error().message());
    answer(false, {});
    return;
  }
  requests_[requests_made_] = {*file, std::move(answer)};
}

void FolderExchange::read_inbox() {
  std::error_code error;
  std::vector<fs::path> messages;
  for (fs::directory_iterator entry(in_, error), end; !error && entry != end;
       entry.increment(error)) {
    if (is_exchange_name(entry->path().filename().native())) messages.push_back(entry->path());
  }
  for (const fs::path& path : messages) {
    const Result<std::string> text = read_file(path);
    unlink(path.c_str());
    wire::ExchangeDown message;
    if (!text || !message.ParseFromString(*text)) {
      handlers_.say(fmt::format("{} is no message of the agent's", path.native()));
      continue;
    }
    take(message);
  }
}

void FolderExchange::take(const wire::ExchangeDown& message) {
  switch (message.kind_case()) {
    case wire::ExchangeDown::kGathered:
      take_gathered(message.gathered());
      break;
    case wire::ExchangeDown::kFetched:
      take_fetched(message.fetched());
      break;
    case wire::ExchangeDown::kServe:
      serve(message.serve());
      break;
    case wire::ExchangeDown::kAbort:
      handlers_.aborted(message.abort().status(), message.abort().reason());
      break;
    case wire::ExchangeDown::kEndHeard:
      handlers_.end_heard(message.end_heard().rank());
      break;
    case wire::ExchangeDown::kRoute:  // between coordinator and agents
    case wire::ExchangeDown::KIND_NOT_SET:
      break;
  }
}

void FolderExchange::take_gathered(const wire::Gathered& gathered) {
  const auto found = collectives_.find(gathered.key());
  if (found == collectives_.end()) return;
  Collective& collective = found->second;
  const auto waiting = collective.under_way.find(gathered.number());
  if (waiting == collective.under_way.end()) return;
  const GatherAnswer answer = std::move(waiting->second.answer);
  if (collective.kept != 0) remove(collective.kept);
  collective.kept = waiting->second.file;
  collective.under_way.erase(waiting);
  answer(gathered.status(), gathered.blobs());
}

void FolderExchange::take_fetched(const wire::FetchReply& reply) {
  const auto found = requests_.find(reply.number());
  if (found == requests_.end()) return;
  const Answer answer = std::move(found->second.answer);
  remove(found->second.file);
  requests_.erase(found);
  answer(reply.found(), reply.blob());
}

void FolderExchange::serve(const wire::FetchRequest& request) {
  settle(request.asker(), request.settled());
  const RequestId id{request.asker(), request.number()};
  if (request.number() < settled_[request.asker()] || being_served_.contains(id)) return;
  const auto given = replies_.find(id);
  if (given != replies_.end()) {
    // Said again under a new name, so that the agent takes it up again.
    const uint64_t name = next_file_++;
    if (renameat(AT_FDCWD, (out_ / std::to_string(given->second)).c_str(), AT_FDCWD,
                 (out_ / std::to_string(name)).c_str()) == 0) {
      given->second = name;
    }
    return;
  }
  being_served_.insert(id);
  const Answer answer = [this, request](bool found, const std::string& data) {
    mailbox_.call([this, request, found, data] { reply(request, found, data); });
  };
  if (request.names().empty()) {
    handlers_.serve_rank(request.rank(), answer);
  } else {
    handlers_.serve_names(request.names(), answer);
  }
}

void FolderExchange::reply(const wire::FetchRequest& request, bool found, const std::string& data) {
  const RequestId id{request.asker(), request.number()};
  being_served_.erase(id);
  if (request.number() < settled_[request.asker()]) return;
  wire::ExchangeUp message;
  wire::FetchReply* served = message.mutable_served();
  served->set_rank(request.rank());
  served->set_asker(request.asker());
  served->set_number(request.number());
  served->set_found(found);
  served->set_blob(data);
  Result<uint64_t> file = write(message);
  if (!file) {
    handlers_.say(file.error().message());
    if (!found) return;
    // That it is not to be had is better than to be waited for.
    served->set_found(false);
    served->clear_blob();
    file = write(message);
    if (!file) return;
  }
  replies_[id] = *file;
}

void FolderExchange::settle(uint32_t asker, uint64_t below) {
  uint64_t& settled = settled_[asker];
  if (below <= settled) return;
  settled = below;
  const auto begin = replies_.lower_bound({asker, 0});
  const auto end = replies_.lower_bound({asker, below});
  for (auto reply = begin; reply != end; ++reply) remove(reply->second);
  replies_.erase(begin, end);
}

Result<uint64_t> FolderExchange::write(const wire::ExchangeUp& message) {
  const std::string text = message.SerializeAsString();
  if (text.size() > kMaxExchangeFile || files_ >= kMaxOutboxFiles) {
    return failure(Code::kUnsupported,
                   fmt::format("a message of {} bytes beside {} others is more than the exchange "
                               "between pods holds",
                               text.size(), files_));
  }
  const fs::path unfinished = out_ / kUnfinished;
  {
    const UniqueFd fd(open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) return errno_failure(errno, unfinished.native());
    FERMATA_TRY_RESULT(write_all(fd.get(), text, unfinished.native()));
  }
  const uint64_t name = next_file_++;
  const fs::path path = out_ / std::to_string(name);
  if (rename(unfinished.c_str(), path.c_str()) != 0) return errno_failure(errno, path.native());
  ++files_;
  return name;
}

void FolderExchange::remove(uint64_t file) {
  if (unlink((out_ / std::to_string(file)).c_str()) == 0) --files_;
}

Status make_exchange_folders(const fs::path& out, const fs::path& in) {
  for (const fs::path& folder : {out.parent_path(), out, in}) {
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
      return errno_status(errno, "making " + folder.native());
    }
  }
  return Status::ok();
}

}  // namespace fermata::pod
