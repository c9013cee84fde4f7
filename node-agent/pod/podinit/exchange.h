// The seam between the PMIx server of this pod and the servers of the step's other pods: what a
// collective has to gather from all of them, data of ranks that live elsewhere, names that are kept
// elsewhere, and the end of the whole step. With one pod there is nobody to ask. Called on
// libpmix's thread or the main loop's; answers may come on any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fermata::pod {

/// This pod's part of a collective.
struct CollectivePart {
  std::string key;             ///< which ranks take part, the same text in every pod
  std::vector<uint32_t> pods;  ///< that take part, this one among them, in ascending order
  std::string blob;
  int32_t status = 0;  ///< as PMIx has it; not 0: ranks of this pod failed, and so do all
};

class Exchange {
 public:
  /// `status` as PMIx has it, 0: gathered; `blobs`: those of all pods, in the order of pods.
  using GatherAnswer = std::function<void(int32_t status, const std::string& blobs)>;
  /// `found`: whether there is an answer.
  using Answer = std::function<void(bool found, const std::string& data)>;

  Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  virtual ~Exchange() = default;

  /// Gathers what the pods taking part give. A key may come again: the n-th time here meets the
  /// n-th time elsewhere.
  virtual void gather(CollectivePart part, GatherAnswer answer) = 0;

  /// What rank `rank`, not of this pod, has put for others to read.
  virtual void fetch(uint32_t rank, Answer answer) = 0;

  /// Has pod `server` carry out a call of the store of published names, once.
  virtual void call_names(uint32_t server, std::string call, Answer answer) = 0;

  /// Ends the ranks of all other pods, too. Main loop only.
  virtual void abort(int32_t status, const std::string& reason) = 0;
};

/// A step of one pod.
class SinglePodExchange final : public Exchange {
 public:
  void gather(CollectivePart part, GatherAnswer answer) override;
  void fetch(uint32_t rank, Answer answer) override;
  void call_names(uint32_t server, std::string call, Answer answer) override;
  void abort(int32_t status, const std::string& reason) override;
};

}  // namespace fermata::pod
