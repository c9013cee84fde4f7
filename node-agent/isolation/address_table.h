// Translations as the BPF programs look them up. Plain functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "node-agent/isolation/layout.h"
#include "proto/addresses.pb.h"

namespace fermata::isolation {

struct TableEntry {
  AddressKey key;
  AddressValue value;
};

struct AddressTable {
  std::vector<TableEntry> entries;
  bool shared = false;  ///< an address on the wire stands for several hosts
};

/// Entries for both directions, under this generation. kDamaged names an entry whose addresses are
/// none, of two families, or one with a port and one without.
Result<AddressTable> build_table(const image::AddressMap& addresses, uint32_t generation);

/// What build_table() was given, in its order, and then what the programs learned.
image::AddressMap given_addresses(std::vector<TableEntry> entries);

}  // namespace fermata::isolation
