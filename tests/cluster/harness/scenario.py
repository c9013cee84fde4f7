"""What every scenario has: a seed, a cluster, an end."""
import argparse
import contextlib
import os
import random
import subprocess

from fermata_job import run_test

from .cluster import Cluster


def parser(description):
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=None, help="of the random moments; printed when not given")
    return made


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


def run_scenario(name, arguments, body, seconds, nodes=3, config="", small=None):
    """Runs body(cluster, jobs, dice) in a fresh cluster and exits 0 or 1. `jobs`: whose clean_up() is called at the
    end. `small`: size of a file system at <workspace>/small that all nodes share."""
    if arguments.seed is None:
        arguments.seed = random.randrange(1 << 30)
    print(f"seed {arguments.seed}", flush=True)

    def in_cluster(workspace, _):
        jobs, cluster = [], Cluster(workspace, nodes, config)
        with small_file_system(workspace.at("small"), small):
            try:
                cluster.up()
                body(cluster, jobs, random.Random(arguments.seed))
            finally:
                for job in jobs:
                    job.clean_up()
                cluster.clean_up()

    run_test(f"cluster.{name}", in_cluster, seconds)
