// Addresses as the pod's programs know them <-> addresses on the wire, in the calls of the socket
// interface that carry one. Part of isolation.bpf.c.
#pragma once

// An address of IPv4 as one of IPv6.
#define IPV4_PREFIX bpf_htonl(0xffff)

static __always_inline __u8 protocol_of(struct bpf_sock_addr* call) {
  // MPTCP (262) carries TCP's ports.
  return call->protocol == IPPROTO_UDP || call->protocol == IPPROTO_UDPLITE ? IPPROTO_UDP
                                                                            : IPPROTO_TCP;
}

// The entry of the address and port, else that of the host.
static __always_inline const struct AddressValue* entry_of(struct AddressKey* key) {
  const struct AddressValue* found = bpf_map_lookup_elem(&fermata_table, key);
  if (found || key->port == 0) return found;
  __u16 port = key->port;
  key->port = 0;
  found = bpf_map_lookup_elem(&fermata_table, key);
  key->port = port;
  return found;
}

static __always_inline int translate_v4(struct bpf_sock_addr* call, __u8 direction, int to_peer) {
  volatile struct IsolationControl* state = control();
  if (!state || state->generation == 0) return 1;
  struct AddressKey key = {
      .address = {0, 0, IPV4_PREFIX, call->user_ip4},
      .port = (__u16)call->user_port,
      .protocol = protocol_of(call),
      .direction = direction,
      .generation = state->generation,
  };
  const struct AddressValue* found = entry_of(&key);
  if (!found) return 1;
  if (to_peer && (found->flags & kShared)) learn_peer(&key, found);
  call->user_ip4 = found->address[3];
  if (found->port) call->user_port = found->port;
  return 1;
}

static __always_inline int translate_v6(struct bpf_sock_addr* call, __u8 direction, int to_peer) {
  volatile struct IsolationControl* state = control();
  if (!state || state->generation == 0) return 1;
  struct AddressKey key = {
      .address = {call->user_ip6[0], call->user_ip6[1], call->user_ip6[2], call->user_ip6[3]},
      .port = (__u16)call->user_port,
      .protocol = protocol_of(call),
      .direction = direction,
      .generation = state->generation,
  };
  const struct AddressValue* found = entry_of(&key);
  if (!found) return 1;
  if (to_peer && (found->flags & kShared)) learn_peer(&key, found);
  call->user_ip6[0] = found->address[0];
  call->user_ip6[1] = found->address[1];
  call->user_ip6[2] = found->address[2];
  call->user_ip6[3] = found->address[3];
  if (found->port) call->user_port = found->port;
  return 1;
}

// The source that sendmsg(2) names in an IP_PKTINFO message. (One in an IPV6_PKTINFO message is
// refused before any program is run when the host does not have it.)
static __always_inline void translate_source_v4(struct bpf_sock_addr* call) {
  volatile struct IsolationControl* state = control();
  if (!state || state->generation == 0 || call->msg_src_ip4 == 0) return;
  struct AddressKey key = {
      .address = {0, 0, IPV4_PREFIX, call->msg_src_ip4},
      .protocol = IPPROTO_UDP,
      .direction = kFromProgram,
      .generation = state->generation,
  };
  const struct AddressValue* found = bpf_map_lookup_elem(&fermata_table, &key);
  if (found) call->msg_src_ip4 = found->address[3];
}

SEC("cgroup/connect4") int fermata_con4(struct bpf_sock_addr* call) {
  return translate_v4(call, kFromProgram, 1);
}
SEC("cgroup/connect6") int fermata_con6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromProgram, 1);
}
SEC("cgroup/sendmsg4") int fermata_send4(struct bpf_sock_addr* call) {
  translate_source_v4(call);
  return translate_v4(call, kFromProgram, 1);
}
SEC("cgroup/sendmsg6") int fermata_send6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromProgram, 1);
}
SEC("cgroup/bind4") int fermata_bind4(struct bpf_sock_addr* call) {
  return translate_v4(call, kFromProgram, 0);
}
SEC("cgroup/bind6") int fermata_bind6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromProgram, 0);
}
SEC("cgroup/recvmsg4") int fermata_recv4(struct bpf_sock_addr* call) {
  return translate_v4(call, kFromWire, 0);
}
SEC("cgroup/recvmsg6") int fermata_recv6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromWire, 0);
}
SEC("cgroup/getsockname4") int fermata_sock4(struct bpf_sock_addr* call) {
  return translate_v4(call, kFromWire, 0);
}
SEC("cgroup/getsockname6") int fermata_sock6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromWire, 0);
}
SEC("cgroup/getpeername4") int fermata_peer4(struct bpf_sock_addr* call) {
  return translate_v4(call, kFromWire, 0);
}
SEC("cgroup/getpeername6") int fermata_peer6(struct bpf_sock_addr* call) {
  return translate_v6(call, kFromWire, 0);
}
