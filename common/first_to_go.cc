#include "common/first_to_go.h"

#include <fstream>
#include <mutex>

namespace fermata {
namespace {

constexpr const char* kFile = "/proc/self/oom_score_adj";
constexpr int kFirst = 1000;

struct Score {
  std::mutex mutex;
  int users = 0;
  std::string usual;  ///< where there are users
};

Score& score() {
  static Score one;
  return one;
}

std::string read_score() {
  std::string text;
  std::ifstream(kFile) >> text;
  return text;
}

}  // namespace

FirstToGo::FirstToGo() {
  const std::lock_guard lock(score().mutex);
  if (score().users++ > 0) return;
  score().usual = read_score();
  std::ofstream(kFile) << kFirst;
}

FirstToGo::~FirstToGo() {
  const std::lock_guard lock(score().mutex);
  if (--score().users == 0) std::ofstream(kFile) << score().usual;
}

std::string usual_oom_score() {
  const std::lock_guard lock(score().mutex);
  return score().users > 0 ? score().usual : read_score();
}

}  // namespace fermata
