// The seam between the PMIx server of this pod and the servers of the step's other pods: what a
// fence has to gather from all nodes, and data of ranks that live elsewhere. With one pod there is
// nobody to ask. Called on libpmix's thread; answers may come from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace fermata::pod {

class Exchange {
 public:
  /// `found`: whether there is an answer; `data`: the blobs of all pods, put together.
  using Answer = std::function<void(bool found, const std::string& data)>;

  virtual ~Exchange() = default;

  /// Gathers the blobs that the pods taking part in the collective `signature` give for it. A
  /// signature may come again: the n-th time here meets the n-th time elsewhere.
  virtual void gather(const std::string& signature, std::string blob, Answer answer) = 0;

  /// What rank `rank`, not of this pod, has put for others to read.
  virtual void fetch(uint32_t rank, Answer answer) = 0;
};

/// A step of one pod.
class SinglePodExchange final : public Exchange {
 public:
  void gather(const std::string& signature, std::string blob, Answer answer) override;
  void fetch(uint32_t rank, Answer answer) override;
};

}  // namespace fermata::pod
