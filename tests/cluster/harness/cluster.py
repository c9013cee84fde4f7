"""One cluster of scripts/cluster."""
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

from fermata_job import BIN, FERMATA, REPOSITORY, SLOWDOWN, Failure, check, read, said, wait_until

SCRIPT = os.path.join(REPOSITORY, "scripts", "cluster")
USER = "alice"  # an ordinary user of the nodes


def cgroup2_mount():
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4]
    raise Failure("no cgroup v2 tree is mounted")


def kill(pid, number=signal.SIGKILL):
    """False when it had ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def command_name(pid):
    return read(f"/proc/{pid}/comm").strip()


def process_state(pid):
    """As /proc/PID/stat has it: R, S, D, T (stopped), t (traced), Z; empty once it is gone."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1]


class Cluster:
    """PIDs are the host's."""

    def __init__(self, workspace, nodes, config="", slots=8, daemons=None):
        """`daemons`: what their environment has besides."""
        self.workspace = workspace
        self.daemons = daemons or {}
        self.folder = workspace.at("cluster")
        self.names = [f"n{k + 1}" for k in range(nodes)]
        self.environment = dict(os.environ, FERMATA_CLUSTER=self.folder, FERMATA_CLUSTER_BIN=BIN,
                                FERMATA_CLUSTER_SLOTS=str(slots),
                                # No node has more ranks than processors, but all nodes share the same few.
                                OMPI_MCA_mpi_yield_when_idle="1")
        self.environment.pop("FERMATA_CONFIG", None)
        if "keep_sets" not in config:
            config += "\nkeep_sets = 0\n"  # scenarios look for every set that was ever committed
        with open(workspace.at("config.toml"), "w") as file:
            file.write(config)
        self.environment["FERMATA_CLUSTER_CONFIG"] = workspace.at("config.toml")
        name = os.path.realpath(self.folder) + "\n"
        self.prefix = "fermata-" + hashlib.md5(name.encode()).hexdigest()[:6]
        self.groups = cgroup2_mount()

    def up(self):
        self.script("up", len(self.names), environment=self.daemons)

    def clean_up(self):
        for log in glob.glob(os.path.join(self.folder, "log", "*.log")):
            shutil.copy(log, self.workspace.at("cluster." + os.path.basename(log)))
        subprocess.run([SCRIPT, "down"], env=self.environment, check=False, stdin=subprocess.DEVNULL)

    # ---- the script

    def script(self, *words, seconds=60, environment=None):
        try:
            result = subprocess.run([SCRIPT, *map(str, words)], env=dict(self.environment, **(environment or {})),
                                    stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                                    timeout=seconds * SLOWDOWN, check=False)
        except subprocess.TimeoutExpired:
            raise Failure(f"scripts/cluster {words[0]}: not done after {seconds * SLOWDOWN} s") from None
        check(result.returncode == 0, f"scripts/cluster {' '.join(map(str, words))}: {said(result)}")
        return result.stdout

    def inside(self, node, words, user=None):
        """The words of a command that runs `words` inside a node."""
        return [SCRIPT, "exec", *(["-u", user] if user else []), node, *map(str, words)]

    def run(self, node, *words, user=None, seconds=60, **options):
        """Runs a command inside a node to its end, whatever that is."""
        try:
            return subprocess.run(self.inside(node, words, user), env=self.environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, errors="replace", timeout=seconds * SLOWDOWN,
                                  check=False, **options)
        except subprocess.TimeoutExpired as expired:
            raise Failure(f"{' '.join(map(str, words))}: not done after {seconds * SLOWDOWN} s; it said: "
                          f"{expired.stdout!r} {expired.stderr!r}") from None

    def start(self, node, *words, user=None, **options):
        """Starts a command inside a node; it ends with the process returned."""
        return subprocess.Popen(self.inside(node, words, user), env=self.environment, stdin=subprocess.DEVNULL, **options)

    def fermata(self, *arguments, user=USER, seconds=60):
        return self.run("ctl", FERMATA, *arguments, user=user, seconds=seconds)

    def fermata_json(self, *arguments, user=USER, seconds=60):
        result = self.fermata(*arguments, "--json", user=user, seconds=seconds)
        check(result.returncode == 0, f"fermata {' '.join(map(str, arguments))}: {said(result)}")
        return json.loads(result.stdout)

    # ---- nodes and daemons

    def kill_node(self, node):
        self.script("kill-node", node)

    def start_node(self, node):
        self.script("start-node", node, environment=self.daemons)

    def daemon(self, node):
        """PID of its fermata-agentd or, on ctl, fermata-coordd."""
        name = "fermata-coordd" if node == "ctl" else "fermata-agentd"
        for pid in read(os.path.join(self.groups, f"{self.prefix}-{node}", "init.scope", "cgroup.procs")).split():
            if command_name(pid) == name[:15]:
                return int(pid)
        raise Failure(f"no {name} runs on {node}")

    def start_daemon(self, node, environment=None):
        self.script("start-daemon", node, "coordd" if node == "ctl" else "agentd",
                    environment=dict(self.daemons, **(environment or {})))

    def log(self, node):
        return read(os.path.join(self.folder, "log", ("coordd" if node == "ctl" else "agentd") + f"-{node}.log"))

    def states(self):
        """node -> up, lost, as the coordinator sees it; empty when it does not answer."""
        result = self.fermata("nodes", "--json")
        if result.returncode != 0:
            return {}
        found = json.loads(result.stdout)
        return {each["node"]: each["state"] for each in (found["nodes"] if isinstance(found, dict) else found)}

    def wait_attached(self, *nodes, seconds=40):
        wanted = nodes or self.names
        wait_until(lambda: all(self.states().get(node) == "up" for node in wanted), seconds,
                   f"the coordinator to see {' '.join(wanted)}")

    # ---- pods

    def pod_groups(self, job="*"):
        """node -> groups of the pods of a job (of all) there."""
        found = {}
        for node in self.names:
            groups = glob.glob(os.path.join(self.groups, f"{self.prefix}-{node}", "fermata", f"{job}.*"))
            if groups:
                found[node] = groups
        return found

    def processes(self, job="*", node=None):
        """Every process in the pods of a job (of all jobs), on one node or all."""
        pids = []
        for where, groups in self.pod_groups(job).items():
            if node in (None, where):
                for group in groups:
                    for folder, _, _ in os.walk(group):
                        pids += [int(pid) for pid in read(os.path.join(folder, "cgroup.procs")).split()]
        return pids

    def held_up(self, job="*"):
        """What of a job is frozen, stopped or traced, a sentence each."""
        held = []
        for node, groups in self.pod_groups(job).items():
            held += [f"group {group} on {node} is frozen" for group in groups
                     if "frozen 1" in read(os.path.join(group, "cgroup.events"))]
            held += [f"process {pid} ({command_name(pid)}) on {node} is in state {process_state(pid)}"
                     for pid in self.processes(job, node) if process_state(pid) in ("T", "t")]
        return held

    # ---- at once: the script takes some 50 ms, a quarter of a set

    def _link(self, network, *words):
        subprocess.run(["ip", "-n", f"{self.prefix}-{network}", "link", "set", *words], check=True)

    def silence(self, node, seconds):
        """Nothing reaches or leaves the node for that long."""
        self._link("ctl", f"v-{node}", "nomaster")
        time.sleep(seconds)
        self._link("ctl", f"v-{node}", "master", "br0")

    def crash(self, node):
        """What kill_node() does before it clears away."""
        self._link(node, "eth0", "down")
        kill(int(read(os.path.join(self.folder, "nodes", node, "init.pid"))))
