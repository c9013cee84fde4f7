// Steps that no pod can hold. One thread.
#pragma once

#include "common/stub_message.h"

namespace fermata::spank_plugin {

/// Whether its words are of `srun --multi-prog`: the name of its file and what stands in it, as
/// srun of 22.05 sends them. What is executed slurmstepd alone knows.
bool is_multi_prog(const TaskCommand& command);

}  // namespace fermata::spank_plugin
