// The programs that a pod's group carries. They hold no pointer of the kernel's and need none of
// its type information: one object for every kernel since 5.10.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
// After the above.
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "node-agent/isolation/layout.h"

// Both directions of two generations of tables: more than a job of 10,000 ranks listens on.
#define MAX_ENTRIES 131072

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct IsolationControl);
} fermata_control SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, MAX_ENTRIES);
  __type(key, struct AddressKey);
  __type(value, struct AddressValue);
} fermata_table SEC(".maps");

static __always_inline volatile struct IsolationControl* control(void) {
  __u32 only = 0;
  return bpf_map_lookup_elem(&fermata_control, &only);
}

static __always_inline int is_cut(volatile struct IsolationControl* state) {
  __u64 until = state->until;
  return until != 0 && bpf_ktime_get_ns() < until;
}

#include "node-agent/isolation/shared_hosts.bpf.h"
#include "node-agent/isolation/translate.bpf.h"

// Verdicts of cgroup_skb programs (include/linux/bpf-cgroup.h): ingress 0 drops. Egress 0 drops
// with an error, which sendto(2) returns; TCP tells nobody and backs off. 2 drops as a full queue
// does: UDP does not tell, TCP tries twice a second and counts (TCP_RESOURCE_PROBE_INTERVAL in
// tcp_retransmit_timer() and tcp_send_probe0(), Linux 6.18). At 15 (tcp_retries2) a connection with
// something to send and nothing in flight ends with ETIMEDOUT, that is after 7 s, and a connect(2)
// at 6 (tcp_syn_retries).
enum { kDrop = 0, kPass = 1, kDropAsCongested = 2 };

// So connections go on soon by themselves after most cuts, and live through all.
static const __u64 kSoonNs = 1500000000;

// Where the header of TCP begins; 0: it has none.
static __always_inline __u32 tcp_begin(struct __sk_buff* packet) {
  if (packet->protocol == bpf_htons(ETH_P_IP)) {
    struct iphdr ip;
    if (bpf_skb_load_bytes(packet, 0, &ip, sizeof(ip))) return 0;
    return ip.protocol == IPPROTO_TCP ? ip.ihl * 4 : 0;
  }
  if (packet->protocol == bpf_htons(ETH_P_IPV6)) {
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(packet, 0, &ip, sizeof(ip))) return 0;
    return ip.nexthdr == IPPROTO_TCP ? sizeof(ip) : 0;
  }
  return 0;
}

static __always_inline int backs_off(struct __sk_buff* packet, __u64 cut_since) {
  __u32 begin = tcp_begin(packet);
  if (!begin) return 0;
  if (bpf_ktime_get_ns() - cut_since > kSoonNs) return 1;
  struct tcphdr tcp;
  return !bpf_skb_load_bytes(packet, begin, &tcp, sizeof(tcp)) && tcp.syn;
}

// A connection of which the pod has not heard is its client's alone, who begins it again. One in
// the middle of its handshake could not be held.
static __always_inline int begins_connection(struct __sk_buff* packet) {
  __u32 begin = tcp_begin(packet);
  struct tcphdr tcp;
  return begin && !bpf_skb_load_bytes(packet, begin, &tcp, sizeof(tcp)) && tcp.syn && !tcp.ack;
}

SEC("cgroup_skb/ingress") int fermata_ingress(struct __sk_buff* packet) {
  volatile struct IsolationControl* state = control();
  if (!state) return kPass;
  if (is_cut(state) && (!state->hears || begins_connection(packet))) return kDrop;
  if (state->shared) learn_sender(packet, state->generation);
  return kPass;
}

SEC("cgroup_skb/egress") int fermata_egress(struct __sk_buff* packet) {
  volatile struct IsolationControl* state = control();
  if (!state || !is_cut(state)) return kPass;
  return backs_off(packet, state->since) ? kDrop : kDropAsCongested;
}

// No helper that asks for the GPL is called.
char isolation_license[] SEC("license") = "Apache-2.0";
