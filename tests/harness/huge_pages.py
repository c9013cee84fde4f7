"""Transparent huge pages of a job, for the test drivers."""
import re

from fermata_job import read


def huge_mib(job):
    """AnonHugePages of all its processes (proc_pid_smaps(5)), in MiB."""
    kib = 0
    for pid in job.processes():
        found = re.search(r"^AnonHugePages:\s+(\d+) kB", read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
        kib += int(found.group(1)) if found else 0
    return kib >> 10
