#include "common/stream_name.h"

namespace fermata {

std::string expand_stream_name(std::string_view name, const PodId& pod, std::string_view host) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const char sign = name[i] == '%' && i + 1 < name.size() ? name[i + 1] : '\0';
    switch (sign) {
      case 'j':
        out += std::to_string(pod.step.job);
        break;
      case 's':
        out += std::to_string(pod.step.step);
        break;
      case 'n':
        out += std::to_string(pod.pod);
        break;
      case 'N':
        out += host;
        break;
      case '%':
        out += '%';
        break;
      default:
        out += name[i];
        continue;
    }
    ++i;
  }
  return out;
}

}  // namespace fermata
