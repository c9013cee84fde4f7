// How many huge pages an image needs: more than a machine has address space for are never free.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/engine/rebuild.h"

namespace fermata::engine {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kHuge = uint64_t{2} << 20;
constexpr uint64_t kStart = uint64_t{1} << 40;
constexpr uint64_t kPages = uint64_t{1} << 22;  // 8 TiB

image::PodObjects one_map() {
  image::PodObjects objects;
  image::Process& process = *objects.add_processes();
  process.set_vpid(1);
  image::Vma& vma = *process.add_vmas();
  vma.set_start(kStart);
  vma.set_end(kStart + kPages * kHuge);
  vma.set_huge_page_size(kHuge);
  return objects;
}

std::vector<MemoryRegion> memory(Extents extents) {
  return {{{MemoryId::Kind::kProcess, 1}, std::move(extents), nullptr}};
}

TEST(HugePagePool, AMapNeedsAllItsPages) {
  const Status status = check_huge_pages(one_map(), memory({{kStart, kPageSize}}));
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr("the job needs 4194304 huge pages of 2048 KiB"));
  EXPECT_THAT(status.message(), HasSubstr("nr_hugepages"));
}

TEST(HugePagePool, AMapWithNothingReserved_NeedsThePagesThatItFills) {
  image::PodObjects objects = one_map();
  objects.mutable_processes(0)->mutable_vmas(0)->set_no_reserve(true);
  EXPECT_TRUE(check_huge_pages(objects, memory({})));
  // The second and third lie in pages that are counted already.
  const uint64_t most = (kPages - 1) * kHuge;
  const Status status =
      check_huge_pages(objects, memory({{kStart + kPageSize, most},
                                        {kStart + most + 2 * kPageSize, kPageSize},
                                        {kStart + most + 4 * kPageSize, kPageSize}}));
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr("the job needs 4194304 huge pages of 2048 KiB"));
}

TEST(HugePagePool, AnObjectNeedsThePagesThatAreMappedOrFilled) {
  image::PodObjects objects = one_map();
  image::SharedObject& object = *objects.add_shared_objects();
  object.set_id(1);
  object.set_huge_page_size(kHuge);
  // Mapped by two processes; contents are behind that, in one page more.
  image::Vma& vma = *objects.mutable_processes(0)->mutable_vmas(0);
  vma.clear_huge_page_size();
  vma.set_backing(image::Vma::OBJECT);
  vma.set_object_id(1);
  *objects.add_processes() = objects.processes(0);
  const std::vector<MemoryRegion> beyond{
      {{MemoryId::Kind::kObject, 1}, {{kPages * kHuge + kPageSize, kPageSize}}, nullptr}};
  const Status status = check_huge_pages(objects, beyond);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr("the job needs 4194305 huge pages of 2048 KiB"));
}

TEST(HugePagePool, OrdinaryMapsNeedNone) {
  image::PodObjects objects = one_map();
  objects.mutable_processes(0)->mutable_vmas(0)->clear_huge_page_size();
  EXPECT_TRUE(check_huge_pages(objects, memory({{kStart, kPages * kHuge}})));
}

}  // namespace
}  // namespace fermata::engine
