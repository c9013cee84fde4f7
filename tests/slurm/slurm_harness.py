"""What the scenarios of tests/slurm share: a cluster of scripts/slurm-cluster on the harness of tests/cluster."""
import functools
import glob
import os
import re
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from harness import cluster as nodes  # noqa: E402  (the path comes first)
from harness import scenario  # noqa: E402
from fermata_job import BIN, FERMATA, REPOSITORY, SLOWDOWN, Failure, check, read, said, wait_until  # noqa: E402

nodes.SCRIPT = os.path.join(REPOSITORY, "scripts", "slurm-cluster")
USER = nodes.USER


class SlurmCluster(nodes.Cluster):
    """Slurm's commands run in ctl as alice, in a folder of hers. `slurm_config`: lines for slurm.conf."""

    def __init__(self, workspace, count, config="", slots=8, daemons=None, slurm_config=""):
        super().__init__(workspace, count, config, slots, daemons)
        if slurm_config:
            with open(workspace.at("slurm.conf"), "w") as file:
                file.write(slurm_config)
            self.environment["FERMATA_CLUSTER_SLURM_CONFIG"] = workspace.at("slurm.conf")
        self.environment["SLURM_CONF"] = os.path.join(self.folder, "etc", "slurm.conf")
        self.home = workspace.at("home")

    def up(self):
        super().up()
        os.makedirs(self.home, exist_ok=True)
        os.chmod(self.home, 0o777)

    def clean_up(self):
        for log in glob.glob(os.path.join(self.folder, "slurm", "*.log")):
            shutil.copy(log, self.workspace.at("cluster." + os.path.basename(log)))
        super().clean_up()

    def srun(self, *words, seconds=60, user=USER):
        return self.run("ctl", "srun", *words, user=user, seconds=seconds, cwd=self.home)

    def sbatch(self, script, *options):
        """The number of the job."""
        path = os.path.join(self.home, "job.sh")
        with open(path, "w") as file:
            file.write("#!/bin/bash\n" + script)
        os.chmod(path, 0o755)
        result = self.run("ctl", "sbatch", "--parsable", *options, path, user=USER, cwd=self.home)
        check(result.returncode == 0, f"sbatch: {said(result)}")
        return int(result.stdout.split(";")[0])

    def slurm_job(self, job):
        """What `scontrol show job` tells, by key."""
        result = self.run("ctl", "scontrol", "show", "job", job)
        return dict(re.findall(r"(\w+)=(\S*)", result.stdout)) if result.returncode == 0 else {}

    def wait_slurm_state(self, job, states, seconds=90):
        found = {}

        def there():
            found.update(self.slurm_job(job))
            return found.get("JobState") in states
        wait_until(there, seconds, f"job {job} to be {' or '.join(states)}")
        return found

    def info(self, step):
        """Its entry of `fermata jobs --json`; None when it does not run."""
        listed = self.fermata_json("jobs")
        for each in listed["jobs"] if isinstance(listed, dict) else listed:
            if each["job"] == step:
                return each
        return None

    def wait_held(self, step, seconds=60, start=0):
        def held():
            info = self.info(step) or {}
            return info.get("state") == "running" and info["start"] >= start
        wait_until(held, seconds, f"start {start} of step {step} to run in pods")

    def wait_gone(self, step, seconds=60):
        wait_until(lambda: self.info(step) is None, seconds, f"step {step} to be gone")

    def committed(self, folder, step):
        """CRIDs of its committed sets, ascending."""
        return sorted(int(path.split("/")[-2]) for path in glob.glob(os.path.join(folder, step, "*", "set.json")))

    def file(self, name):
        return os.path.join(self.home, name)

    @staticmethod
    def finish(client, seconds):
        """What a client that was started returns."""
        return client.wait(timeout=seconds * SLOWDOWN)

    def must_checkpoint(self, step, *options, seconds=60):
        for _ in range(50):
            result = self.fermata("checkpoint", step, *options, seconds=seconds)
            if "try again in a moment" not in result.stderr:
                break
            time.sleep(0.1)
        check(result.returncode == 0, f"fermata checkpoint {step}: {said(result)}")


def run(name, description, body, seconds, count=3, slurm_config=""):
    """Runs body(cluster, dice) in a fresh cluster and exits 0 or 1."""
    arguments = scenario.parser(description).parse_args()
    scenario.Cluster = functools.partial(SlurmCluster, slurm_config=slurm_config)
    scenario.run_scenario(f"slurm.{name}", arguments, lambda cluster, _, dice: body(cluster, dice), seconds, nodes=count)


__all__ = ["BIN", "FERMATA", "REPOSITORY", "SLOWDOWN", "USER", "Failure", "check", "nodes", "read", "run", "said", "wait_until"]
