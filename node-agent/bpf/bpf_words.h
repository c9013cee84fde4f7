// What libbpf and the verifier say of a failure goes to the log, not to stderr. Any thread.
#pragma once

namespace fermata {

/// Before anything of libbpf's is used; as often as one likes.
void keep_bpf_words();

}  // namespace fermata
