// The programs that a pod's group carries. They hold no pointer of the kernel's and need none of
// its type information: one object for every kernel since 5.10.
#include <linux/bpf.h>
#include <linux/in.h>
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

// Verdicts of cgroup_skb programs (include/linux/bpf-cgroup.h): ingress 0 drops. Egress 0 would
// too, with an error that sendto(2) returns and TCP backs off for; 2 drops as a full queue does,
// which TCP tries again soon and UDP does not tell.
enum { kDrop = 0, kPass = 1, kDropAsCongested = 2 };

SEC("cgroup_skb/ingress") int fermata_ingress(struct __sk_buff* packet) {
  volatile struct IsolationControl* state = control();
  if (!state) return kPass;
  if (is_cut(state)) return kDrop;
  if (state->shared) learn_sender(packet, state->generation);
  return kPass;
}

SEC("cgroup_skb/egress") int fermata_egress(struct __sk_buff* packet) {
  (void)packet;
  volatile struct IsolationControl* state = control();
  return state && is_cut(state) ? kDropAsCongested : kPass;
}

// No helper that asks for the GPL is called.
char isolation_license[] SEC("license") = "Apache-2.0";
