// What the tools say on stderr while they work. init_log() once at the start, before other threads;
// the rest from any thread, but not between fork and exec (another thread may hold the sink's
// lock).
#pragma once

#include <string_view>

#include "common/status.h"

namespace fermata {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

/// Text: "fermata: sentence", with "warning: " or "error: " before the sentence. JSON: one object a
/// line with time (UTC, RFC 3339), level, pid and message.
enum class LogFormat { kText, kJson };

/// "debug", "info", "warning", "error", "off".
Result<LogLevel> parse_log_level(std::string_view text);
/// "text", "json".
Result<LogFormat> parse_log_format(std::string_view text);

/// Without it: warnings and errors, as text.
void init_log(LogLevel level, LogFormat format);

void log_debug(std::string_view message);
void log_info(std::string_view message);
void log_warning(std::string_view message);
void log_error(std::string_view message);

}  // namespace fermata
