"""What every scenario has: a seed, a cluster, an end."""
import argparse
import random

from fermata_job import run_test

from .cluster import Cluster


def parser(description):
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=None, help="of the random moments; printed when not given")
    return made


def run_scenario(name, arguments, body, seconds, nodes=3, config=""):
    """Runs body(cluster, jobs, dice) in a fresh cluster and exits 0 or 1. `jobs`: whose clean_up() is called at the
    end."""
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    print(f"seed {seed}", flush=True)

    def in_cluster(workspace, _):
        jobs, cluster = [], Cluster(workspace, nodes, config)
        try:
            cluster.up()
            body(cluster, jobs, random.Random(seed))
        finally:
            for job in jobs:
                job.clean_up()
            cluster.clean_up()

    run_test(f"cluster.{name}", in_cluster, seconds)
