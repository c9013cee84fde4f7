// What an image may not say: each case is a sound image with one thing changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/user.h>

#include "node-agent/engine/rebuild.h"

namespace fermata::engine {
namespace {

using ::testing::HasSubstr;

image::PodObjects sound_objects() {
  image::PodObjects objects;
  image::Process& init = *objects.add_processes();
  init.set_vpid(1);
  init.set_group(1);
  init.set_session(1);
  init.set_cwd("/");
  init.mutable_mm()->set_exe("/bin/true");
  image::Thread& thread = *init.add_threads();
  thread.set_vtid(1);
  thread.mutable_registers()->set_general(std::string(sizeof(user_regs_struct), '\0'));
  thread.mutable_registers()->set_xstate(std::string(576, '\0'));
  image::Vma& vma = *init.add_vmas();
  vma.set_start(0x10000);
  vma.set_end(0x12000);
  vma.set_protection(3);
  return objects;
}

std::vector<MemoryRegion> sound_memory() {
  return {{{MemoryId::Kind::kProcess, 1}, {{0x10000, 0x1000, Where::kHere}}, nullptr}};
}

void expect_refused(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory,
                    const char* what) {
  const Status status = validate(objects, memory);
  EXPECT_EQ(status.code(), Code::kDamaged);
  EXPECT_THAT(status.message(), HasSubstr(what));
}

image::ShmNode& node(image::PodObjects& objects, const char* path, uint32_t mode) {
  image::ShmNode& made = *objects.add_shm_nodes();
  made.set_path(path);
  made.set_mode(mode);
  return made;
}

TEST(Validate, SoundImage_IsAccepted) {
  const Status status = validate(sound_objects(), sound_memory());
  EXPECT_TRUE(status) << status.message();
}

TEST(Validate, HugePagesThatDoNotFitTheirMap_AreRefused) {
  for (const uint64_t size : {uint64_t{0x1000}, uint64_t{0x3000}, uint64_t{2} << 20}) {
    image::PodObjects objects = sound_objects();
    objects.mutable_processes(0)->mutable_vmas(0)->set_huge_page_size(size);
    expect_refused(objects, sound_memory(), "cannot be of huge pages");
  }
}

TEST(Validate, HugePagesThatDoNotFitTheirObject_AreRefused) {
  image::PodObjects objects = sound_objects();
  image::SharedObject& object = *objects.add_shared_objects();
  object.set_id(1);
  object.set_size(4 << 20);
  object.set_kind(image::SharedObject::MEMFD);
  object.set_huge_page_size(2 << 20);
  EXPECT_TRUE(validate(objects, sound_memory()));
  object.set_huge_page_size(3 << 20);
  expect_refused(objects, sound_memory(), "cannot be of huge pages");
  object.set_huge_page_size(8 << 20);
  expect_refused(objects, sound_memory(), "cannot be of huge pages");
  object.set_huge_page_size(2 << 20);
  object.set_kind(image::SharedObject::SHM_FILE);
  expect_refused(objects, sound_memory(), "cannot be of huge pages");
}

// A symbolic link to /etc, a second name of it that claims to be a folder, and a file below that
// would have been written by root outside the pod.
TEST(Validate, ShmHardLinkOfSymbolicLink_IsRefused) {
  image::PodObjects objects = sound_objects();
  node(objects, "a", S_IFLNK | 0777).set_target("/etc");
  node(objects, "b", S_IFDIR | 0755).set_hard_link("a");
  node(objects, "b/ld.so.preload", S_IFREG | 0644);
  expect_refused(objects, sound_memory(), "links to no file");
}

TEST(Validate, ShmPathThroughParent_IsRefused) {
  image::PodObjects objects = sound_objects();
  node(objects, "../escape", S_IFREG | 0644);
  expect_refused(objects, sound_memory(), "'../escape'");
}

TEST(Validate, ShmFileBelowLink_IsRefused) {
  image::PodObjects objects = sound_objects();
  node(objects, "a", S_IFLNK | 0777).set_target("/etc");
  node(objects, "a/passwd", S_IFREG | 0644);
  expect_refused(objects, sound_memory(), "has no folder");
}

TEST(Validate, ProcessThatIsItsOwnAncestor_IsRefused) {
  image::PodObjects objects = sound_objects();
  image::Process& first = *objects.add_processes();
  first = objects.processes(0);
  first.set_vpid(7);
  first.mutable_threads(0)->set_vtid(7);
  first.set_parent(8);
  image::Process& second = *objects.add_processes();
  second = first;
  second.set_vpid(8);
  second.mutable_threads(0)->set_vtid(8);
  second.set_parent(7);
  std::vector<MemoryRegion> memory = sound_memory();
  for (const uint64_t id : {7UL, 8UL}) {
    memory.push_back(memory.front());
    memory.back().id.id = id;
  }
  expect_refused(objects, memory, "does not descend from PID 1");
}

TEST(Validate, MemoryOutsideOfMaps_IsRefused) {
  std::vector<MemoryRegion> memory = sound_memory();
  memory.front().extents.front().length = 0x3000;
  expect_refused(sound_objects(), memory, "lies in no map");
}

TEST(Validate, DescriptorOfUnknownFile_IsRefused) {
  image::PodObjects objects = sound_objects();
  image::Fd& fd = *objects.mutable_processes(0)->add_fds();
  fd.set_fd(3);
  fd.set_file_id(9);
  expect_refused(objects, sound_memory(), "descriptor 3");
}

TEST(Validate, RseqAreaOutsideOfMaps_IsRefused) {
  image::PodObjects objects = sound_objects();
  objects.mutable_processes(0)->mutable_threads(0)->mutable_rseq()->set_address(0x90000);
  expect_refused(objects, sound_memory(), "rseq");
}

}  // namespace
}  // namespace fermata::engine
