// After a restart several hosts of the job may be one node: H1 and H2 are both N on the wire. An
// address N:port of a socket that both knew before has an entry of its own. For others the programs
// learn which host it is, as entries beside those that were given:
//   - a peer that the pod connects or sends to: the host that it named;
//   - a TCP peer that connects to the pod: its SYN says which of the hosts of N it comes from, by
//     an ordinal in a TCP option for experiments (RFC 6994). All pods number the hosts alike.
// Part of isolation.bpf.c.
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

enum { kOptionKind = 254, kOptionLength = 8 };
// The experiment's name.
#define OPTION_MAGIC bpf_htons(0xfe2a)

struct HostOption {
  __u8 kind;
  __u8 length;
  __u16 magic;
  __u32 ordinal;  // network order
};

static __always_inline void learn(const struct AddressKey* wire, const __u32 host[4]) {
  struct AddressValue value = {
      .address = {host[0], host[1], host[2], host[3]},
      .port = wire->port,
      .flags = kLearned,
  };
  // What was given holds. (A connect to N:port by the name of another of N's hosts would turn the
  // peer of those that are there into that host.)
  const struct AddressValue* given = bpf_map_lookup_elem(&fermata_table, wire);
  if (given && !(given->flags & kLearned)) return;
  // When the table is full the peer is taken for the first of the hosts.
  bpf_map_update_elem(&fermata_table, wire, &value, BPF_ANY);
}

// `named`: what the program connects to; `found`: the entry of its host.
static __always_inline void learn_peer(const struct AddressKey* named,
                                       const struct AddressValue* found) {
  struct AddressKey wire = {
      .address = {found->address[0], found->address[1], found->address[2], found->address[3]},
      .port = named->port,
      .protocol = named->protocol,
      .direction = kFromWire,
      .generation = named->generation,
  };
  learn(&wire, named->address);
}

// The option of a SYN at `at`, behind `length` bytes of options.
static __always_inline int find_option(struct __sk_buff* packet, __u32 at, __u32 length,
                                       struct HostOption* option) {
  __u32 end = at + length;
  for (int i = 0; i < 40; ++i) {
    __u8 head[2];
    if (at + sizeof(*option) > end) return 0;
    if (bpf_skb_load_bytes(packet, at, head, sizeof(head))) return 0;
    if (head[0] == 0) return 0;
    if (head[0] == 1) {
      at += 1;
      continue;
    }
    if (head[0] == kOptionKind && head[1] == kOptionLength) {
      if (bpf_skb_load_bytes(packet, at, option, sizeof(*option))) return 0;
      if (option->magic == OPTION_MAGIC) return 1;
    }
    if (head[1] < 2) return 0;
    at += head[1];
  }
  return 0;
}

// Looks into SYNs that come in. A wrong ordinal, whoever sent it, names another host of the same
// node at worst.
static __always_inline void learn_sender(struct __sk_buff* packet, __u32 generation) {
  struct AddressKey key = {.direction = kByOrdinal, .generation = generation};
  __u32 transport;
  if (packet->protocol == bpf_htons(ETH_P_IP)) {
    struct iphdr ip;
    if (bpf_skb_load_bytes(packet, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP) return;
    key.address[2] = bpf_htonl(0xffff);
    key.address[3] = ip.saddr;
    transport = ip.ihl * 4;
  } else if (packet->protocol == bpf_htons(ETH_P_IPV6)) {
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(packet, 0, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_TCP) return;
    __builtin_memcpy(key.address, &ip.saddr, sizeof(key.address));
    transport = sizeof(ip);
  } else {
    return;
  }
  struct tcphdr tcp;
  if (bpf_skb_load_bytes(packet, transport, &tcp, sizeof(tcp)) || !tcp.syn || tcp.ack) return;
  struct HostOption option;
  if (!find_option(packet, transport + sizeof(tcp), tcp.doff * 4 - sizeof(tcp), &option)) return;
  key.port = (__u16)bpf_ntohl(option.ordinal);
  const struct AddressValue* host = bpf_map_lookup_elem(&fermata_table, &key);
  if (!host) return;
  key.direction = kFromWire;
  key.protocol = IPPROTO_TCP;
  key.port = tcp.source;
  learn(&key, host->address);
}

enum { kInet = 2 };

// The verifier refuses one load from a computed place in the context: both are loaded here, and
// barrier_var() keeps the compiler from making one of them.
#define ADDRESS_OF_SOCKET(address, socket, side)                                                 \
  __u32 address[4] = {(socket)->side##_ip6[0], (socket)->side##_ip6[1], (socket)->side##_ip6[2], \
                      (socket)->side##_ip6[3]};                                                  \
  do {                                                                                           \
    __u32 v4 = (socket)->side##_ip4;                                                             \
    barrier_var(v4);                                                                             \
    barrier_var(address[3]);                                                                     \
    if ((socket)->family == kInet) {                                                             \
      address[0] = 0;                                                                            \
      address[1] = 0;                                                                            \
      address[2] = bpf_htonl(0xffff);                                                            \
      address[3] = v4;                                                                           \
    }                                                                                            \
  } while (0)

// The entry of the pod's own host, null when no other host has its address.
static __always_inline const struct AddressValue* own_shared_host(struct bpf_sock_ops* socket,
                                                                  __u32 generation) {
  ADDRESS_OF_SOCKET(local, socket, local);
  struct AddressKey key = {
      .address = {local[0], local[1], local[2], local[3]},
      .protocol = IPPROTO_TCP,
      .direction = kFromWire,
      .generation = generation,
  };
  const struct AddressValue* own = bpf_map_lookup_elem(&fermata_table, &key);
  return own && (own->flags & kShared) ? own : 0;
}

static __always_inline void write_option(struct bpf_sock_ops* socket, __u32 generation) {
  const struct AddressValue* own = own_shared_host(socket, generation);
  if (!own) return;
  struct HostOption option = {.kind = kOptionKind,
                              .length = kOptionLength,
                              .magic = OPTION_MAGIC,
                              .ordinal = bpf_htonl(own->ordinal)};
  bpf_store_hdr_opt(socket, &option, sizeof(option), 0);
}

// When a connection that came in ends.
static __always_inline void forget_peer(struct bpf_sock_ops* socket, __u32 generation) {
  ADDRESS_OF_SOCKET(remote, socket, remote);
  struct AddressKey key = {
      .address = {remote[0], remote[1], remote[2], remote[3]},
      .port = bpf_htons((__u16)bpf_ntohl(socket->remote_port)),
      .protocol = IPPROTO_TCP,
      .direction = kFromWire,
      .generation = generation,
  };
  const struct AddressValue* peer = bpf_map_lookup_elem(&fermata_table, &key);
  if (peer && (peer->flags & kLearned)) bpf_map_delete_elem(&fermata_table, &key);
}

static __always_inline void set_callbacks(struct bpf_sock_ops* socket, __u32 add, __u32 remove) {
  bpf_sock_ops_cb_flags_set(socket, (socket->bpf_sock_ops_cb_flags | add) & ~remove);
}

SEC("sockops") int fermata_sockops(struct bpf_sock_ops* socket) {
  enum { kSyn = 2 };
  volatile struct IsolationControl* state = control();
  if (!state || !state->shared) return 1;
  // `reply` is left alone: it belongs to programs that stand beside.
  switch (socket->op) {
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
      if (own_shared_host(socket, state->generation)) {
        set_callbacks(socket, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, 0);
      }
      break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
      set_callbacks(socket, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
      break;
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
      set_callbacks(socket, BPF_SOCK_OPS_STATE_CB_FLAG, 0);
      break;
    case BPF_SOCK_OPS_STATE_CB:
      if (socket->args[1] == BPF_TCP_CLOSE) forget_peer(socket, state->generation);
      break;
    case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
      if (socket->skb_tcp_flags & kSyn) bpf_reserve_hdr_opt(socket, kOptionLength, 0);
      break;
    case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
      if (socket->skb_tcp_flags & kSyn) write_option(socket, state->generation);
      break;
    default:
      break;
  }
  return 1;
}
