// Writes the bounds and flags of each map of a process: an iterator over them (bpf_iter, target
// task_vma, Linux 5.12; of one task alone since 6.1).
#include <linux/types.h>
// After the above.
#include <linux/bpf.h>
// After the above.
#include <bpf/bpf_helpers.h>

// Of the kernel's own types what is used here; where the fields are, its BTF says at loading.
#define OF_KERNEL __attribute__((preserve_access_index))
struct seq_file;
struct bpf_iter_meta {
  struct seq_file* seq;
} OF_KERNEL;
struct vm_area_struct {
  unsigned long vm_start;
  unsigned long vm_end;
  unsigned long vm_flags;
} OF_KERNEL;
struct bpf_iter__task_vma {
  struct bpf_iter_meta* meta;
  struct vm_area_struct* vma;
} OF_KERNEL;

SEC("iter/task_vma")
int fermata_vma_flags(struct bpf_iter__task_vma* context) {
  struct vm_area_struct* vma = context->vma;
  if (!vma) return 0;  // the end
  __u64 record[3] = {vma->vm_start, vma->vm_end, vma->vm_flags};
  bpf_seq_write(context->meta->seq, record, sizeof(record));
  return 0;
}

char fermata_license[] SEC("license") = "GPL";
