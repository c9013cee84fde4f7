"""One job of a cluster and the starts of it."""
import glob
import json
import os
import re
import shutil
import subprocess
import time

from fermata_job import FERMATA, Failure, check, read, said, wait_until

from .cluster import USER, command_name, kill

class Job:
    """A `fermata run` in ctl and the `fermata restart`s after it, in a folder of its own: sets in sets/, what the
    clients say in client.<n>.log, the job's output in *.out."""

    def __init__(self, cluster, program, ranks, nodes, name, options=(), user=USER, sets=None, fast=False):
        self.cluster, self.program, self.user = cluster, program, user
        self.folder = cluster.workspace.at(name)
        self.sets = sets or os.path.join(self.folder, "sets")
        for folder in (self.folder, self.sets):
            os.makedirs(folder, exist_ok=True)
            self._give(folder)
        program.prepare(self.folder)
        self.starts, self.id, self.client, self.said = 0, None, None, None
        self._start("run", "-n", ranks, *self._nodes(nodes), *options, "--checkpoint-dir", self.sets, "--",
                    *program.command(self.folder, fast))

    def _give(self, path):
        """To the job's user, as the nodes know it."""
        for line in read(os.path.join(self.cluster.folder, "etc", "passwd")).splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == self.user:
                os.chown(path, int(uid), int(gid))

    @staticmethod
    def _nodes(nodes):
        return ["--nodes", ",".join(nodes)] if nodes else []

    def _start(self, *arguments):
        self.said = os.path.join(self.folder, f"client.{self.starts}.log")
        self.starts += 1
        with open(self.said, "wb") as log:
            self.client = self.cluster.start("ctl", FERMATA, *arguments, user=self.user, cwd=self.folder, stdout=log,
                                             stderr=subprocess.STDOUT)

    # ---- what it says

    def output(self):
        return "".join(read(path) for path in sorted(glob.glob(os.path.join(self.folder, "*.out"))))

    def result(self):
        return self.program.result(self.folder, self.output())

    def progress(self):
        return self.program.progress(self.folder, self.output())

    def wait_progress(self, seconds=60):
        """Until it has told something new: nothing of it stands still."""
        before = len(self.progress())
        wait_until(lambda: len(self.progress()) > before or self.ended(), seconds, f"job {self.id} to go on")
        return self

    def info(self):
        """Its entry of `fermata jobs --json`; None when there is none."""
        listed = self.cluster.fermata_json("jobs")
        for each in listed["jobs"] if isinstance(listed, dict) else listed:
            if each["job"] == self.id:
                return each
        return None

    # ---- life

    def wait_started(self, seconds=40):
        def started():
            found = re.search(r"job (\d+\.\d+) (?:re)?started", read(self.said))
            if found:
                check(self.id in (None, found.group(1)), f"job {self.id} came back as {found.group(1)}")
                self.id = found.group(1)
                return True
            check(self.client.poll() is None,
                  f"the client ended with {self.client.returncode} before the job ran: {read(self.said).strip()}")
            return False
        wait_until(started, seconds, "the job to start")
        return self

    def ended(self):
        return self.client.poll() is not None

    def sleep(self, seconds):
        """False when the job ended meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.ended():
            time.sleep(0.005)
        return not self.ended()

    def wait_ended(self, seconds=120):
        wait_until(self.ended, seconds, f"job {self.id} to end")
        return self.client.returncode

    def wait_gone(self, seconds=40):
        """No process of it is left, and the coordinator has it no more."""
        wait_until(lambda: not self.cluster.processes(self.id), seconds, f"the processes of job {self.id} to end")
        wait_until(lambda: self.info() is None, seconds, f"the coordinator to see the end of job {self.id}")

    def must_end_well(self, seconds=240):
        status = self.wait_ended(seconds)
        check(status == 0, f"job {self.id} ended with {status}: {read(self.said).strip()}; output: {self.output()[-3000:]}")
        return self.result()

    def wait_ranks(self, count, seconds=40):
        """Until so many processes of the program run."""
        wait_until(lambda: [command_name(pid) for pid in self.cluster.processes(self.id)].count(self.program.name) >= count,
                   seconds, f"{count} ranks of job {self.id}")
        return self

    def end(self):
        """Ends it by killing its processes."""
        self.kill_pods()
        self.wait_ended(40)
        self.wait_gone()

    def kill_pods(self, node=None):
        pids = self.cluster.processes(self.id, node)
        check(pids, f"job {self.id} has no processes to kill")
        for pid in pids:
            kill(pid)
        return pids

    # ---- sets

    def checkpoint(self, *options, seconds=60):
        return self.cluster.fermata("checkpoint", self.id, *options, user=self.user, seconds=seconds)

    def must_checkpoint(self, *options, seconds=60):
        result = self.checkpoint(*options, seconds=seconds)
        check(result.returncode == 0, f"fermata checkpoint {self.id} {' '.join(options)}: {said(result)}")
        return self.committed()[-1]

    def begin_checkpoint(self):
        """The client of a checkpoint in progress."""
        return self.cluster.start("ctl", FERMATA, "checkpoint", self.id, user=self.user, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)

    def set_folder(self, crid):
        return os.path.join(self.sets, self.id, str(crid))

    def attempts(self):
        """CRIDs of all folders of sets, ascending."""
        folder = os.path.join(self.sets, self.id)
        return sorted(int(name) for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.isdigit())

    def committed(self):
        return [crid for crid in self.attempts() if os.path.exists(os.path.join(self.set_folder(crid), "set.json"))]

    def manifest(self, crid):
        with open(os.path.join(self.set_folder(crid), "set.json")) as file:
            return json.load(file)["set"]

    def left_overs(self):
        """Files and folders of sets that will never be, as far as nothing is in progress."""
        left = [os.path.join(folder, name) for folder, _, names in os.walk(self.sets) for name in names if ".part" in name]
        return left + [self.set_folder(crid) for crid in self.attempts() if crid not in self.committed()]

    def begin_restart(self, nodes=None, crid=None, options=()):
        self._start("restart", self.id.split(".")[0], "--checkpoint-dir", self.sets, *self._nodes(nodes), *options,
                    *(["--crid", crid] if crid is not None else []))

    def restart(self, nodes=None, crid=None, options=(), seconds=60):
        self.begin_restart(nodes, crid, options)
        return self.wait_started(seconds)

    def wait_running(self, seconds=60):
        """Whatever became of its client."""
        wait_until(lambda: (self.info() or {}).get("state") == "running", seconds, f"job {self.id} to run")
        wait_until(lambda: not self.cluster.held_up(self.id), seconds, f"the pods of job {self.id} to run")
        return self

    def unharmed(self, when):
        """It runs and nothing of it is held up."""
        check(not self.ended(), f"{when}: the job ended with {self.client.returncode}: {read(self.said).strip()}; "
                                f"output: {self.output()[-2000:]}")
        try:
            wait_until(lambda: not self.cluster.held_up(self.id), 20, "the pods to run")
        except Failure:
            raise Failure(f"{when}: {'; '.join(self.cluster.held_up(self.id))}") from None

    def clean_up(self):
        """Ends what is left of it."""
        if self.id:
            for pid in self.cluster.processes(self.id):
                kill(pid)
        if self.client.poll() is None:
            self.client.kill()
            self.client.wait()
        for log in glob.glob(os.path.join(self.folder, "client.*.log")) + glob.glob(os.path.join(self.folder, "*.out")):
            shutil.copy(log, self.cluster.workspace.at(f"{os.path.basename(self.folder)}.{os.path.basename(log)}.log"))
