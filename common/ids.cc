#include "common/ids.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace fermata {
namespace {

/// The whole of `text` as a decimal number: no sign, no space, nothing after it.
template <typename T>
std::optional<T> parse_decimal(std::string_view text) {
  T value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

}  // namespace

std::string to_string(Crid crid) { return std::to_string(crid.value); }

std::string to_string(JobStep step) { return fmt::format("{}.{}", step.job, step.step); }

Result<Crid> parse_crid(std::string_view text) {
  const auto value = parse_decimal<uint64_t>(text);
  if (!value || *value == 0) {
    return failure(Code::kUsage, fmt::format("'{}' is not a CRID: a number from 1 on is expected "
                                             "(fermata ls shows them)",
                                             text));
  }
  return Crid{*value};
}

std::string to_string(const PodId& pod) {
  std::string text = to_string(pod.step) + '/' + std::to_string(pod.pod);
  if (pod.start != 0) text += '+' + std::to_string(pod.start);
  return text;
}

Result<JobStep> parse_job_step(std::string_view text) {
  const size_t dot = text.find('.');
  const auto job = parse_decimal<uint64_t>(text.substr(0, dot));
  const auto step = dot == std::string_view::npos ? std::optional<uint32_t>(0)
                                                  : parse_decimal<uint32_t>(text.substr(dot + 1));
  if (!job || !step) {
    return failure(Code::kUsage,
                   fmt::format("'{}' is not a job: JOB or JOB.STEP is expected, such as 1234 or "
                               "1234.0",
                               text));
  }
  return JobStep{*job, *step};
}

}  // namespace fermata
