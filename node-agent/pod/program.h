// Finds a job's program as a shell would, with the rights of the job's user. Changes the
// file-system credentials of the calling thread while it looks.
#pragma once

#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/status.h"

namespace fermata::pod {

/// Path to execute for `command`: as given when it has a slash (relative to `working_directory`),
/// else the first executable file in the PATH of `environment`. kNotFound (a shell's 127) or
/// kPermission (126), with a shell's words.
Result<std::string> find_program(const std::string& command,
                                 const std::vector<std::string>& environment,
                                 const std::string& working_directory, const Credentials& user);

}  // namespace fermata::pod
