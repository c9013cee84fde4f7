// The small files below the run directory that tell other processes what runs here. What stands in
// one is done with the reader's rights, so only those are believed that root, or who reads, can
// have written. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"

namespace fermata::node_agent {

/// Makes the folder where it is missing; readable for all whatever the umask: owners look for their
/// jobs in it.
Status make_record_folder(const std::filesystem::path& path);

/// The text of a record. nullopt: there is none, or somebody else can have written it.
std::optional<std::string> trusted_record(const std::filesystem::path& file);

/// Start time of a process in clock ticks since boot (proc(5), stat field 22): with the PID it
/// names one process for ever. 0 when there is none, or only a zombie.
uint64_t process_start_time(pid_t pid);

}  // namespace fermata::node_agent
