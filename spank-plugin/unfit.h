// Steps that no pod can hold. One thread.
#pragma once

#include <string>
#include <vector>

namespace fermata::spank_plugin {

/// Whether these words are of `srun --multi-prog`: the name of its file and what stands in it, as
/// srun of 22.05 sends them. What is executed slurmstepd alone knows.
bool is_multi_prog(const std::vector<std::string>& words);

}  // namespace fermata::spank_plugin
