// Runs the fermata command as a user would and keeps what it said.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace fermata::cli {

struct Said {
  int exit_status = -1;  ///< 128+N for a signal
  std::string out;
  std::string err;
};

/// Runs `fermata arguments...` in `folder`, with `environment` ("NAME=value") added, as user `uid`
/// (only root can be another), with these signals ignored from its start.
Said run_fermata(const std::vector<std::string>& arguments, const std::string& folder,
                 const std::vector<std::string>& environment, uid_t uid,
                 const std::vector<int>& ignored_signals = {});

}  // namespace fermata::cli
