"""What every scenario has: a seed, a cluster, an end."""
import argparse
import contextlib
import os
import random
import subprocess
import time

from fermata_job import run_test

from .cluster import Cluster
from .job import Job


def parser(description):
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=None, help="of the random moments; printed when not given")
    return made


def sized(cluster, jobs, program, ranks, nodes, seconds, fast=False):
    """The program with as many iterations as take about so long, on this machine and under the load that it has now. The
    program as given is run for that, and longer ones until the time does not lie in its start."""
    while True:
        job = Job(cluster, program, ranks, nodes, f"sizing.{program.iterations}", fast=fast)
        jobs.append(job)
        job.wait_started().wait_progress()
        begin = time.monotonic()
        job.must_end_well()
        took = time.monotonic() - begin
        if took > seconds / 6:
            break
        program = program.of_size(program.iterations * 4)
    found = program.of_size(max(program.iterations, int(program.iterations * seconds / took)))
    print(f"{program.name}: {found.iterations} iterations", flush=True)
    return found


@contextlib.contextmanager
def small_file_system(path, size):
    """A tmpfs there; None: nothing."""
    if size is None:
        yield
        return
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def run_scenario(name, arguments, body, seconds, nodes=3, config="", small=None, daemons=None):
    """Runs body(cluster, jobs, dice) in a fresh cluster and exits 0 or 1. `jobs`: whose clean_up() is called at the
    end. `small`: size of a file system at <workspace>/small that all nodes share. `daemons`: as Cluster has it."""
    if arguments.seed is None:
        arguments.seed = random.randrange(1 << 30)
    print(f"seed {arguments.seed}", flush=True)

    def in_cluster(workspace, _):
        jobs, cluster = [], Cluster(workspace, nodes, config, daemons=daemons)
        with small_file_system(workspace.at("small"), small):
            try:
                cluster.up()
                body(cluster, jobs, random.Random(arguments.seed))
            finally:
                for job in jobs:
                    job.clean_up()
                cluster.clean_up()

    run_test(f"cluster.{name}", in_cluster, seconds)
