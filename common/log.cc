#include "common/log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

namespace fermata {
namespace {

std::string_view level_name(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warning";
    default:
      return "error";
  }
}

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

void append(spdlog::memory_buf_t& out, std::string_view text) {
  out.append(text.data(), text.data() + text.size());
}

/// "fermata: warning: sentence\n".
class TextLine final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    append(out, "fermata: ");
    if (message.level != spdlog::level::info) {
      append(out, level_name(message.level));
      append(out, ": ");
    }
    append(out, {message.payload.data(), message.payload.size()});
    append(out, "\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<TextLine>(); }
};

/// {"time": ..., "level": ..., "pid": ..., "message": ...}\n
class JsonLine final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto seconds = std::chrono::floor<std::chrono::milliseconds>(message.time);
    nlohmann::ordered_json line;
    line["time"] =
        fmt::format("{:%FT%T}.{:03}Z", fmt::gmtime(spdlog::log_clock::to_time_t(seconds)),
                    seconds.time_since_epoch().count() % 1000);
    line["level"] = level_name(message.level);
    line["pid"] = ::getpid();
    line["message"] = std::string_view(message.payload.data(), message.payload.size());
    // A message may quote a path, and a path need not be UTF-8.
    append(out, line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    append(out, "\n");
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonLine>(); }
};

std::unique_ptr<spdlog::logger> make_logger(LogLevel level, LogFormat format) {
  auto logger = std::make_unique<spdlog::logger>("fermata",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(spdlog_level(level));
  if (format == LogFormat::kJson) {
    logger->set_formatter(std::make_unique<JsonLine>());
  } else {
    logger->set_formatter(std::make_unique<TextLine>());
  }
  logger->flush_on(spdlog::level::trace);
  return logger;
}

std::unique_ptr<spdlog::logger>& logger() {
  static auto instance = make_logger(LogLevel::kWarning, LogFormat::kText);
  return instance;
}

}  // namespace

Result<LogLevel> parse_log_level(std::string_view text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  if (text == "off") return LogLevel::kOff;
  return failure(
      Code::kUsage,
      fmt::format("'{}' is not a log level: debug, info, warning, error or off is expected", text));
}

Result<LogFormat> parse_log_format(std::string_view text) {
  if (text == "text") return LogFormat::kText;
  if (text == "json") return LogFormat::kJson;
  return failure(Code::kUsage,
                 fmt::format("'{}' is not a log format: text or json is expected", text));
}

void init_log(LogLevel level, LogFormat format) { logger() = make_logger(level, format); }

void log_debug(std::string_view message) { logger()->debug("{}", message); }
void log_info(std::string_view message) { logger()->info("{}", message); }
void log_warning(std::string_view message) { logger()->warn("{}", message); }
void log_error(std::string_view message) { logger()->error("{}", message); }

}  // namespace fermata
