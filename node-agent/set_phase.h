// The phases of a set as orders number them (PhaseOrder.phase, coord::Phase). Plain values.
#pragma once

#include <cstdint>

namespace fermata::node_agent {

enum class SetPhase : uint32_t { kPrepare, kIsolate, kCapture, kJoin, kWriteBack, kCommit };

}  // namespace fermata::node_agent
