#include "coord/orders.h"

#include <condition_variable>
#include <memory>
#include <mutex>

#include "proto/outcome.h"

namespace fermata::coord {
namespace {

/// Shared with answers that come after the wait was given up.
struct Board {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::vector<Result<wire::Done>> done;
  size_t open = 0;
  Status first_failure;
};

Result<wire::Done> judged(Result<wire::Done> done) {
  if (!done) return done;
  FERMATA_TRY_RESULT(wire::to_status(done->outcome()));
  return done;
}

}  // namespace

Errands run_errands(Fleet& fleet, std::vector<Errand> errands, Duration timeout, Until until,
                    const std::stop_token& give_up) {
  const Time deadline = std::chrono::steady_clock::now() + timeout;
  auto board = std::make_shared<Board>();
  board->open = errands.size();
  board->done.resize(errands.size(), failure(Code::kTimeout, "did not answer in time"));
  for (size_t i = 0; i < errands.size(); ++i) {
    Errand& errand = errands[i];
    errand.order.set_timeout_ns(static_cast<uint64_t>(timeout.count()));
    fleet.send(errand.node, std::move(errand.order),
               [board, i, node = errand.node](Result<wire::Done> answer) {
                 const std::lock_guard lock(board->mutex);
                 board->done[i] = judged(std::move(answer));
                 if (!board->done[i] && board->first_failure) {
                   board->first_failure = board->done[i].error().within("on " + node);
                 }
                 --board->open;
                 board->changed.notify_all();
               });
  }
  std::unique_lock lock(board->mutex);
  board->changed.wait_until(lock, give_up, deadline, [&] {
    return board->open == 0 || (until == Until::kFirstFailure && !board->first_failure);
  });
  Errands result{board->done, board->first_failure};
  if (result.first_failure && board->open != 0) {
    if (give_up.stop_requested()) {
      result.first_failure = {Code::kGone, "given up"};
    } else {
      for (size_t i = 0; i < errands.size() && result.first_failure; ++i) {
        if (!result.done[i])
          result.first_failure = result.done[i].error().within("on " + errands[i].node);
      }
    }
  }
  return result;
}

}  // namespace fermata::coord
