"""A real Slurm of four nodes on this machine: its own munged, slurmctld and slurmds, private to a temporary folder.

Each node has a mount namespace with its own /tmp and a host name of its own; what is shared is the folder. Everything is
started and ended by process id. Nothing of the system's Slurm or munge is used.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "unshare")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

_CONF = """
ClusterName=betterbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctl_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=10000
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=10
OverTimeLimit=0
MinJobAge=300
InactiveLimit=0
PlugStackConfig=/dev/null
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 State=UP
"""


def why_not() -> str:
    """Why a Slurm cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "a Slurm of several nodes on one machine needs root"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"there is no {', '.join(missing)}: install slurmctld slurmd slurm-client munge"
    tried = subprocess.run(["unshare", "--mount", "--uts", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return "" if tried.returncode == 0 else "nodes need namespaces, and those cannot be made here"


def _free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that are free."""
    for first in range(21000 + os.getpid() % 5000, 32000, count):
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held[-1].bind(("", port))
            return first
        except OSError:
            continue
        finally:
            for each in held:
                each.close()
    raise RuntimeError("no free ports")


class SlurmCluster:
    """Four nodes with two cores each; `env` is what its commands need."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bb-slurm-", dir="/var/tmp"))  # /tmp is each node's own
        self.folder.chmod(0o755)
        self.shared = self.folder / "shared"
        self.env = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        for name in [name for name in self.env if name.startswith(("BETTERBOX_", "SBATCH_", "SLURM_JOB"))]:
            del self.env[name]
        self.env.pop("XDG_RUNTIME_DIR", None)
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        for name in ("munge", "ctld", "shared", *(f"spool-{node}" for node in NODES), *(f"tmp-{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        first = _free_ports(1 + len(NODES))
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                folder=self.folder,
                host=socket.gethostname().partition(".")[0],
                ctl_port=first,
                nodes=f"{NODES[0][0]}[1-{len(NODES)}]",
                ports=f"[{first + 1}-{first + len(NODES)}]",
            )
        )
        # Said, since slurmd would look for what is mounted, and end where nothing is (in a chroot); none is used here.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = self.folder / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={key}",
            f"--log-file={munge}/log", f"--pid-file={munge}/pid", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self.wait_until((munge / "socket").exists, "munged")
        conf = self.env["SLURM_CONF"]
        self._daemon("slurmctld", "-D", "-i", "-f", conf)
        for node in NODES:
            setup = 'hostname "$0"; mount --bind "$1" /tmp; shift; exec "$@"'
            self._daemon(
                "unshare", "--mount", "--uts", "sh", "-c", setup, node, str(self.folder / f"tmp-{node}"),
                "slurmd", "-D", "-N", node, "-f", conf,
            )  # fmt: skip
        self.wait_until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "4", "four idle nodes")

    def _daemon(self, *command: str) -> None:
        log = open(self.folder / f"out-{len(self._processes)}", "wb")
        with log:
            self._processes.append(
                subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def run(self, *command: str, check: bool = False, timeout: float = 30, **env: str) -> str:
        """Run a command of Slurm (or any other); what it printed."""
        done = subprocess.run(
            command, env={**self.env, **env}, cwd=self.shared, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def queue(self) -> list[str]:
        """Jobs that pend or run, as ``ID STATE``."""
        return self.run("squeue", "-h", "-o", "%i %T %j").splitlines()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.run("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_job(self, number: str, timeout: float = 60) -> dict[str, str]:
        """Wait until a job is over."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_until(lambda: self.job(number).get("JobState") in over, f"the end of job {number}", timeout)
        return self.job(number)

    def wait_until(self, condition: object, what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise AssertionError(f"timed out: {what}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of its logs, for whoever looks into a failure."""
        files = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("out-*"))
        return "\n".join(f"--- {file.name}\n" + file.read_text(errors="replace")[-1500:] for file in files)

    def close(self) -> None:
        """End jobs, then daemons, by their process ids."""
        if len(self._processes) > 1:
            self.run("scancel", "--user=root")
            deadline = time.monotonic() + 15
            while self.queue() and time.monotonic() < deadline:
                time.sleep(0.05)
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":
    print(why_not() or "can")
    began = time.monotonic()
    cluster = SlurmCluster()
    try:
        print("up", time.monotonic() - began, file=sys.stderr)
        print(cluster.run("srun", "-N4", "sh", "-c", "hostname; echo $SLURMD_NODENAME $SLURM_CPUS_ON_NODE; ls /tmp"))
        print("srun", time.monotonic() - began)
    finally:
        cluster.close()
    print("down", time.monotonic() - began)
