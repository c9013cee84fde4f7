// --compress, of the commands that make checkpoints. One thread.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace fermata::cli {

/// `whose`: what is compressed, for --help. Not given, `value` stays empty: the config file's.
void add_compress_option(CLI::App& command, std::string& value, const std::string& whose);

}  // namespace fermata::cli
