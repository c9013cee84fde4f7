// What a stub says and hears at the agent's socket, for tests.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "common/stub_message.h"
#include "common/unique_fd.h"

namespace fermata::node_agent::stub_talk {

/// Invalid: nobody listens.
UniqueFd connect_to(const std::filesystem::path& socket);
void say(const UniqueFd& fd, const StubFields& fields, const std::vector<int>& with = {});
/// The next message; of kind "gone" where the desk has hung up, "silence" after `timeout`.
StubFields hear(const UniqueFd& fd, std::chrono::milliseconds timeout = std::chrono::seconds(30));
std::string kind_of(const StubFields& said);
StubFields attach(uint64_t job, uint32_t rank);

}  // namespace fermata::node_agent::stub_talk
