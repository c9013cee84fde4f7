"""What tests/vm/numa and numa_service share: machines, the reports of numa_job, how shares of pages are counted."""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "harness"))
from fermata_job import check, read  # noqa: E402

REPOSITORY = os.path.dirname(os.path.dirname(HERE))
RANKS = 4
INTERLEAVE = 3  # MPOL_INTERLEAVE

# Nodes as CPUS:SIZE; distances. Each two nodes of a socket are near; across, 0-2 and 1-3 are nearer than 0-3 and 1-2.
FOUR = ["--cpus", "8", "--sockets", "2", "--numa", "0-1:512M 2-3:512M 4-5:512M 6-7:512M"]
SAME = FOUR + ["--distances", "0-1:12 2-3:12 0-2:21 1-3:21 0-3:31 1-2:31"]


def only_we_place_pages():
    """The kernel would move pages to who uses them."""
    with open("/proc/sys/kernel/numa_balancing", "w") as switch:
        switch.write("0")


def read_reports(folder, when):
    return [json.loads(read(os.path.join(folder, f"{when}.{rank}"))) for rank in range(RANKS)]


def machine(options, script, action, folder, seconds=300):
    """Runs a script of this folder in a machine that shares `folder`; what it printed."""
    result = subprocess.run(
        ["nice", "-n", "10", os.path.join(REPOSITORY, "scripts", "vm-run"), "--timeout", str(seconds), "--share", folder,
         *options, "--", os.path.abspath(script), action, folder],
        cwd=REPOSITORY, capture_output=True, text=True, errors="replace",
        env=dict(os.environ, FERMATA_TEST_SLOWDOWN="4"))
    check(result.returncode == 0, f"{action} in a machine: exit {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout


class Shares:
    """Pages that are where they belong, by kind of area."""

    def __init__(self):
        self.right, self.pages = {}, {}

    def add(self, area, right, pages):
        self.right[area] = self.right.get(area, 0) + right
        self.pages[area] = self.pages.get(area, 0) + pages

    def percent(self):
        return 100.0 * sum(self.right.values()) / sum(self.pages.values())

    def __str__(self):
        return ", ".join(f"{area} {100.0 * self.right[area] / self.pages[area]:.1f} %" for area in sorted(self.pages))


def same_share(before, after, where):
    """Pages on the very node they were on; CPUs and policies as they were."""
    shares = Shares()
    for rank, (had, has) in enumerate(zip(before, after)):
        check(had["cpus"] == has["cpus"], f"rank {rank} ran on CPUs {had['cpus']}, now on {has['cpus']}")
        for area in had.keys() - {"cpus"}:
            for key in ("policy", "policy_nodes"):
                check(had[area][key] == has[area][key], f"rank {rank}, {area}: {key} {had[area][key]}, now {has[area][key]}")
            shares.add(area, sum(a == b for a, b in zip(had[area]["pages"], has[area]["pages"])),
                       len(had[area]["pages"]))
    print(f"{where}: {shares}")
    return shares.percent()
