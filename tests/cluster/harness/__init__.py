"""What the scenarios of tests/cluster share. Python's standard library only.

    cluster    a cluster of scripts/cluster, its nodes, daemons and pods as the host sees them
    job        a job of it: start, checkpoint, kill, restart, with a deadline on every wait
    programs   the MPI programs and LAMMPS: how they are started, what their result is
    scenario   arguments that every scenario has, and its end

They build on tests/harness/fermata_job (deadlines, folders of tests, how a failure is told).
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "harness"))
