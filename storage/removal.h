// Removal of files whose room is given back later. Where the file system tells its disk what is
// free (mount option "discard"), unlink(2) of 1 GiB takes 0.2 s: a file that is open loses its name
// at once, and its blocks when it is closed, in the background. Should we die, the kernel closes
// it.
#pragma once

#include <filesystem>
#include <system_error>

namespace fermata::storage {

/// As std::filesystem::remove_all(). Any thread, with the rights of the calling one.
void remove_tree(const std::filesystem::path& folder, std::error_code& error);

/// Returns when the room of all that remove_tree() has removed in this process is free, or after
/// a second: a set of one job does not wait for what others had.
void wait_for_freed_room();

}  // namespace fermata::storage
