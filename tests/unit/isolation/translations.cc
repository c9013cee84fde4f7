#include "tests/unit/isolation/translations.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>

namespace fermata::isolation {
namespace {

Address parsed(const std::string& bytes) {
  Address result;
  result.length = static_cast<socklen_t>(bytes.size());
  std::memcpy(&result.storage, bytes.data(), std::min(bytes.size(), sizeof(result.storage)));
  return result;
}

}  // namespace

void add(image::AddressMap& map, const Entry& entry) {
  image::AddressEntry& added = *map.add_entries();
  added.set_protocol(static_cast<uint32_t>(entry.protocol));
  added.set_from(entry.from.bytes());
  added.set_to(entry.to.bytes());
}

void set(Isolation& isolation, const std::vector<Entry>& entries) {
  image::AddressMap map;
  for (const Entry& entry : entries) add(map, entry);
  const Status status = isolation.set_addresses(map);
  EXPECT_TRUE(status) << status.message();
}

std::string described(const image::AddressMap& map) {
  std::string lines;
  for (const image::AddressEntry& entry : map.entries()) {
    const std::string protocol = entry.protocol() == 0             ? "any"
                                 : entry.protocol() == IPPROTO_TCP ? "tcp"
                                                                   : "udp";
    lines +=
        protocol + " " + parsed(entry.from()).text() + " -> " + parsed(entry.to()).text() + "\n";
  }
  return lines;
}

void in_pod(const std::function<void(Isolation&, const PodGroup&)>& body) {
  const PodGroup group;
  Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_TRUE(isolation) << isolation.error().message();
  in_network([&] { body(*isolation, group); });
}

}  // namespace fermata::isolation
