#include "node-agent/pod/podinit/exchange.h"

namespace fermata::pod {

void SinglePodExchange::gather(CollectivePart part, GatherAnswer answer) {
  answer(part.status, part.blob);
}

void SinglePodExchange::fetch(uint32_t /*rank*/, Answer answer) { answer(false, {}); }

void SinglePodExchange::call_names(uint32_t /*server*/, std::string /*call*/, Answer answer) {
  answer(false, {});
}

void SinglePodExchange::abort(int32_t /*status*/, const std::string& /*reason*/) {}

}  // namespace fermata::pod
