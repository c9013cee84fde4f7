"""What can happen to a job on three nodes and to those who keep it: strike(), then heal() once the client of the checkpoint
has its answer."""
import os
import signal
import time

from .cluster import command_name, kill

NODES = ["n1", "n2", "n3"]
SPARE = "n4"
VICTIM = "n2"
SILENCE = 12  # longer than the coordinator waits for a word of an agent
SLOW = 10
ROOM = 128 << 20  # left of a disk before a set that will not have enough


class Fault:
    loses_job = False  # some of its processes die by the fault itself
    nodes_after = NODES
    heals_first = False  # what the client waits for

    def __init__(self, cluster, job, dice):
        self.cluster, self.job, self.dice = cluster, job, dice

    def arm(self):
        """Before the checkpoint is asked for."""

    def heal(self):
        """What the job needs to go on."""

    def repair(self):
        """What the cluster needs, once the job goes on."""


class AgentKilled(Fault):
    """SIGKILL of fermata-agentd on one of the nodes"""

    def arm(self):
        self.agent = self.cluster.daemon(VICTIM)

    def strike(self):
        kill(self.agent)

    def heal(self):
        self.cluster.start_daemon(VICTIM)
        self.cluster.wait_attached(*NODES)


class CoordinatorKilled(Fault):
    """SIGKILL of fermata-coordd"""

    heals_first = True

    def arm(self):
        self.coordinator = self.cluster.daemon("ctl")

    def strike(self):
        kill(self.coordinator)

    def heal(self):
        self.cluster.start_daemon("ctl")
        self.cluster.wait_attached(*NODES)


class RankKilled(Fault):
    """SIGKILL of one rank"""
    loses_job = True

    def arm(self):
        self.ranks = [pid for pid in self.cluster.processes(self.job.id, VICTIM) if command_name(pid) == self.job.program.name]

    def strike(self):
        kill(self.dice.choice(self.ranks))


class NodeLost(Fault):
    """A node dies: no packet, then no process"""
    loses_job = True
    nodes_after = ["n1", SPARE, "n3"]

    def strike(self):
        self.cluster.crash(VICTIM)

    def repair(self):
        self.cluster.start_node(VICTIM)
        self.cluster.wait_attached()


class NetworkSilence(Fault):
    __doc__ = f"""Nothing reaches or leaves one of the nodes for {SILENCE} s"""

    def strike(self):
        self.cluster.silence(VICTIM, SILENCE)

    def heal(self):
        self.cluster.wait_attached(*NODES)


class DiskFull(Fault):
    """The file system of the checkpoints is full"""

    def fill(self, name, leave):
        room = os.statvfs(self.job.sets)
        path = os.path.join(os.path.dirname(self.job.sets), name)
        with open(path, "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))
            except OSError:
                pass  # the images took the room first: full it is
        return path

    def arm(self):
        self.fillers = [self.fill("filler", ROOM)]

    def strike(self):
        self.fillers.append(self.fill("filler.rest", 0))

    def heal(self):
        for path in self.fillers:
            os.unlink(path)


class SlowNode(Fault):
    __doc__ = f"""fermata-agentd on one of the nodes stands still for {SLOW} s"""

    def arm(self):
        self.agent = self.cluster.daemon(VICTIM)

    def strike(self):
        kill(self.agent, signal.SIGSTOP)
        time.sleep(SLOW)
        kill(self.agent, signal.SIGCONT)


FAULTS = {"agent_killed": AgentKilled, "coordinator_killed": CoordinatorKilled, "rank_killed": RankKilled,
          "node_lost": NodeLost, "network_silence": NetworkSilence, "disk_full": DiskFull, "slow_node": SlowNode}
