"""A batch job of one step, in a folder of its own, that runs until it is told to stop."""
import os

from slurm_harness import BIN, REPOSITORY, check, read, said, wait_until
from harness.programs import ByteStream

HELD = "--checkpoint-interval=0"

# Counts until there is a file "stop". With "watch" it watches a folder by inotify, which no image can hold.
COUNTER = """
import ctypes, os, sys, time
if "watch" in sys.argv:
    libc = ctypes.CDLL(None)
    libc.inotify_add_watch(libc.inotify_init(), b"/tmp", 2)
number = 0
while not os.path.exists("stop"):
    number += 1
    with open("count", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.1)
"""


class BatchJob:
    """options: of sbatch. The step is in pods unless `held` is false; `interval` as the option has it; `script` has {} in
    the place of srun."""

    def __init__(self, cluster, name, command, options, held=True, interval=None, script="{}\n"):
        self.cluster, self.name = cluster, name
        self.folder = os.path.join(cluster.home, name)
        os.makedirs(self.folder)
        os.chmod(self.folder, 0o777)
        words = ([f"--checkpoint-interval={interval}" if interval else HELD] if held else []) + command(self.folder)
        self.number = cluster.sbatch(script.format(f"srun {' '.join(words)}"), f"--job-name={name}", f"--chdir={self.folder}",
                                     "--output=job.out", "--open-mode=append", *options)
        self.step = f"{self.number}.0"
        self.sets = os.path.join(self.folder, "fermata-checkpoints")

    def slurm(self):
        return self.cluster.slurm_job(self.number)

    def nodes(self):
        listed = self.cluster.run("ctl", "scontrol", "show", "hostnames", self.slurm().get("NodeList", "")).stdout
        return set(listed.split())

    def restarts(self):
        return int(self.slurm().get("Restarts", 0))

    def committed(self):
        return self.cluster.committed(self.sets, self.step)

    def wait_running(self, restarts=0, seconds=90):
        """This start of it."""
        wait_until(lambda: self.slurm().get("JobState") == "RUNNING" and self.restarts() == restarts, seconds,
                   f"job {self.name}, start {restarts}, to run")
        return self

    def wait_held(self, start=0):
        """Its ranks may run before a set of them can be taken."""
        self.cluster.wait_held(self.step, start=start)
        return self

    def wait_progress(self, seconds=60):
        seen = self.progress()
        wait_until(lambda: self.progress() > seen, seconds, f"job {self.name} to go on: {self.output()[-1000:]}")
        return self

    def output(self):
        return read(os.path.join(self.folder, "job.out"))

    def stop(self):
        with open(os.path.join(self.folder, "stop"), "w", encoding="ascii"):
            pass

    def wait_completed(self, seconds=90):
        found = self.cluster.wait_slurm_state(self.number, ["COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"], seconds)
        check(found["JobState"] == "COMPLETED", f"job {self.name}: {found}; {self.output()[-2000:]}")

    def clean_up(self):
        self.cluster.run("ctl", "scancel", self.number)


class Streams(BatchJob):
    """Numbered words between two ranks, each of which is checked; needs at least two tasks."""

    def __init__(self, cluster, name, options, **others):
        self.program = ByteStream(1)
        super().__init__(cluster, name, self.program.command, options, **others)

    def progress(self):
        return len(self.program.progress(self.folder, self.output()))

    def must_end_well(self):
        self.stop()
        self.wait_completed()
        self.program.result(self.folder, self.output())


class Counter(BatchJob):
    """One task that counts; `watch`: it cannot be held."""

    def __init__(self, cluster, name, options, watch=False, **others):
        script = os.path.join(cluster.home, "counter.py")
        with open(script, "w", encoding="ascii") as file:
            file.write(COUNTER)
        super().__init__(cluster, name, lambda folder: ["python3", script] + (["watch"] if watch else []), options, **others)

    def counted(self):
        return [int(line) for line in read(os.path.join(self.folder, "count")).split()]

    def progress(self):
        return len(self.counted())

    def must_end_well(self):
        """Held ones never counted anew."""
        self.stop()
        self.wait_completed()


class Scontrol:
    """The front end before Slurm's own in PATH, as at a site."""

    def __init__(self, cluster):
        self.cluster = cluster
        path = ":".join([os.path.join(REPOSITORY, "scripts"), BIN, "/usr/bin:/bin"])
        self.words = ["env", f"PATH={path}", "scontrol"]

    def __call__(self, *words, user="alice", seconds=120):
        return self.cluster.run("ctl", *self.words, *words, user=user, seconds=seconds)

    def must(self, *words, out="", user="alice"):
        result = self(*words, user=user)
        check(result.returncode == 0 and result.stdout == out and result.stderr == "",
              f"{user}: scontrol {' '.join(map(str, words))}: {said(result)}")
