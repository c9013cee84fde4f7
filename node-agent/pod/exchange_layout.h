// Where podinit and the agent of its node leave messages for each other, and how big these may be.
// A message is a file whose name is a decimal number, written under another name and renamed. Names
// are never used twice in the life of a pod; order has no meaning.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fermata::pod {

/// Below the pod's root: podinit's messages (ExchangeUp), removed by podinit alone once they have
/// no more use.
inline constexpr const char* kExchangeOut = "dev/shm/.fermata/exchange/out";
/// The agent's messages (ExchangeDown), removed by podinit once it has read them.
inline constexpr const char* kExchangeIn = "dev/shm/.fermata/exchange/in";

/// Bytes of one message: with what is put round it, it has to stay below wire::kLargestMessage, or
/// it would end the stream of the agent that carries it.
inline constexpr size_t kMaxExchangeFile = size_t{60} << 20;
/// Messages in the inbox.
inline constexpr size_t kMaxInboxFiles = 4096;
/// Messages in the outbox: the last answer to each pod that has asked stays there until that one
/// asks again, and in a step of ten thousand pods all may have.
inline constexpr size_t kMaxOutboxFiles = 16384;

/// Whether this is the name of a message, and not of one that is being written.
inline bool is_exchange_name(std::string_view name) {
  return !name.empty() && name.size() <= 20 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace fermata::pod
