// What the BPF programs and the agent share: the contents of the maps. C and C++.
#pragma once

#include <linux/types.h>

// The one element of the map fermata_control, which the agent maps into its memory.
struct IsolationControl {
  __u64 until;       // packets are dropped before this moment of bpf_ktime_get_ns(); 0: never
  __u64 since;       // when the cut began that `until` ends
  __u32 generation;  // of the entries that count; 0: no addresses are translated
  __u32 shared;      // 1 when an address on the wire stands for more than one host
  __u32 hears;       // 1: a cut holds for what goes out only
  __u32 unused;
};

enum {
  kFromProgram = 0,  // key: as the pod's programs know it; value: on the wire
  kFromWire = 1,     // key: on the wire; value: as the pod's programs know it
  kByOrdinal = 2,    // key: a shared address on the wire, port: an ordinal; value: the host
};

enum {
  kGiven = 1,    // stands for an entry of set_addresses()
  kShared = 2,   // an entry of a host whose address on the wire stands for others too
  kLearned = 4,  // put in by the programs: which of the hosts a peer at a shared address is
};

// Addresses are IPv6 ones in network order, those of IPv4 as ::ffff:a.b.c.d. Ports are in network
// order, 0: the host.
struct AddressKey {
  __u32 address[4];
  __u16 port;
  __u8 protocol;  // IPPROTO_TCP, IPPROTO_UDP
  __u8 direction;
  __u32 generation;
};

struct AddressValue {
  __u32 address[4];
  __u16 port;  // 0: that of the key looked up
  __u8 given_protocol;
  __u8 flags;
  __u32 index;    // place in what was given to set_addresses()
  __u32 ordinal;  // of this host among those that share an address on the wire
};
