// Small things that every kind of open file needs: fields of fdinfo, status flags, sentences.
// Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "node-agent/engine/file_kind.h"

namespace fermata::engine {

/// The text after "key:" in the fdinfo of `probe`, blanks around it removed; nullopt: no such line.
std::optional<std::string> fdinfo_field(std::string_view fdinfo, std::string_view key);
/// The same as a number; kUnsupported when this kernel does not show it.
Result<uint64_t> fdinfo_number(const FileProbe& probe, std::string_view key, int base);
/// fdinfo of a descriptor of ours, read now.
Result<std::string> own_fdinfo(int fd);

/// kCannotHold: "process 12 (lmp), fd 7 (pipe:[17]): <why>".
Status refuse(const FileProbe& probe, std::string_view why);
/// kBusy: the same of a state that passes by itself; says so.
Status refuse_now(const FileProbe& probe, std::string_view why);
/// "process 12, fd 7": who held a file of an image.
std::string holder_of(const image::File& file);
/// The same for a file of a capture that runs, its program's name included where the process is
/// known.
std::string holder_of(const image::File& file, CaptureContext& context);

/// Brings the flags that fcntl(F_SETFL) can change to those of `flags`.
Status set_status_flags(int fd, uint32_t flags);
/// A new open file description of what `fd` is, through /proc/self/fd.
Result<UniqueFd> reopen(int fd, int flags);

}  // namespace fermata::engine
