# Copyright (C) 2026 the authors of scipion-em-deepem
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Slurm on this machine, for tests and benchmarks: one node, ordinary processes, a temporary folder."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "setpriv")
START_SECONDS = 300

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=01:00:00 State=UP
"""


def reason_to_skip():
    """Why no Slurm can be started here, empty if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no Slurm: {', '.join(missing)} not found (Debian: slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "only root can start a Slurm"


@contextmanager
def slurm(cpus=8, gpus=2):
    """Start a Slurm whose commands work while the context lasts, and end it with all of its jobs.

    Parameters
    ----------
    cpus, gpus : int
        What the node claims to have; there may be fewer CPUs and no GPUs.

    Raises
    ------
    unittest.SkipTest
        Where the programs are not installed, or by another user than root.
    RuntimeError
        Where it does not start; with the end of the logs.
    """
    reason = reason_to_skip()
    if reason:
        raise unittest.SkipTest(reason)
    folder = Path(tempfile.mkdtemp(prefix="deepem-slurm-"))
    before, started = os.environ.get("SLURM_CONF"), []
    try:
        _configure(folder, cpus, gpus)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        _start(folder, started)
        yield
    finally:
        if len(started) == 3:
            _answer("scancel", "--user", "root")
            _wait(lambda: not unfinished(), 15)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def jobs():
    """All jobs since the start, as listed by Slurm, by id, in the order in which they were submitted."""
    lines = subprocess.run(["scontrol", "-o", "show", "job"], check=True, capture_output=True, text=True).stdout
    each = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines.splitlines() if line.startswith("JobId=")]
    return {int(job["JobId"]): job for job in sorted(each, key=lambda job: int(job["JobId"]))}


def unfinished():
    """Ids of the jobs that wait or run."""
    return [int(line) for line in _answer("squeue", "-h", "-o", "%A").splitlines()]


def _configure(folder, cpus, gpus):
    folder.chmod(0o755)  # munged is another user
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, other)]
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, ports=ports, cpus=cpus,
                                                            gpus=gpus))
    devices = [folder / f"gpu{number}" for number in range(gpus)]
    for device in devices:
        device.symlink_to(os.devnull)  # any device does; Slurm numbers them by their names
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
    key = folder / "munge" / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (folder / "munge", key):
        shutil.chown(path, "munge", "munge")


def _start(folder, started):
    def daemon(*command):
        # Ends with this process even if that is killed.
        with open(folder / "daemons.log", "ab") as log:
            started.append(subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True))

    munge = folder / "munge"
    daemon("--reuid", "munge", "--regid", "munge", "--clear-groups", "munged", "--foreground", "--force",
           f"--key-file={munge}/munge.key", f"--socket={munge}/munge.socket", f"--pid-file={munge}/munged.pid",
           f"--log-file={munge}/munged.log", f"--seed-file={munge}/munged.seed")
    ready = _wait((munge / "munge.socket").exists, START_SECONDS)
    if ready:
        daemon("slurmctld", "-D")
        daemon("slurmd", "-D")
        ready = _wait(lambda: _answer("sinfo", "-h", "-o", "%T").startswith("idle"), START_SECONDS)
    if not ready:
        raise RuntimeError("Slurm did not start:\n" + (folder / "daemons.log").read_text(errors="replace")[-3000:])


def _answer(*command):
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def _wait(condition, seconds):
    """Whether a condition came true within some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
