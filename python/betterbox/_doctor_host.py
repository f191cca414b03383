"""What `betterbox doctor` looks at on this host: files, shared memory, limits, names and addresses, other programs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import ipaddress
import os
import resource
import shutil
import socket
import stat
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from betterbox import _core, _mpi_build, _settings
from betterbox._doctor import Check, Finding, ok, problem, warning
from betterbox._errors import BusError

if TYPE_CHECKING:
    from betterbox._doctor_bus import Bus

SOCKET_PATH_BYTES = 107  # sun_path of Linux without its end
SOCKET_NAME_BYTES = 19  # "/a-" or "/s-" and 16 digits
PEERS = 1000  # that a bus should be able to take
DESCRIPTORS_PER_CONNECTION = 4  # of a client to a box: two sockets of ZeroMQ, their wake-ups
SHARED_FILE_SYSTEMS = set(
    "nfs nfs4 lustre gpfs beegfs ceph fuse.ceph cifs smb3 fuse.sshfs afs panfs pvfs2 orangefs 9p wekafs glusterfs "
    "fuse.glusterfs gfs2 ocfs2 virtiofs".split()
)
LOCAL_LOCKS = ("nolock", "local_lock=all", "local_lock=flock", "localflock")
_SENT = struct.pack("Q", 1)  # the state in the head of a segment that nobody has taken yet (runtime/segment_pool.cc)
_FLOCK = "hhlli"  # struct flock: type, whence, start, length, pid
SLURM = ("sbatch", "srun", "squeue", "scancel")


def checks(bus: str, looked: Bus) -> list[tuple[str, Check]]:
    """The checks of this host, for a bus."""
    file = "" if _settings.is_address(bus) else bus
    info = looked.info or {}
    with contextlib.suppress(BusError):  # told by the check of the home folder
        _settings.home()
    folder = os.path.dirname(file) if file else _settings.home_path()
    peer = str(info.get("network_endpoint", ""))
    peers = len(looked.report["peers"]) if looked.report else 0
    socket_folder = _core.socket_folder(file or os.path.join(folder, "bus.json"))
    return [
        ("home folder", lambda: private_folder("home folder", _settings.home_path(), "set BETTERBOX_HOME to a folder of yours")),
        ("file system", lambda: file_system(folder, Path("/proc/self/mounts").read_text())),
        ("locks", lambda: locks(folder)),
        ("bus file", lambda: bus_file(file)),
        ("sockets", lambda: sockets(socket_folder)),
        ("shared memory", lambda: shared_memory("/dev/shm")),
        ("left behind", lambda: left_behind(socket_folder, "/dev/shm", looked.answers)),
        ("descriptors", lambda: descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE), max(peers, PEERS))),
        ("processes", lambda: processes(process_room(), _settings.cpu_count())),
        ("backlog", lambda: backlog(int(Path("/proc/sys/net/core/somaxconn").read_text()))),
        ("host name", lambda: host_name(socket.gethostname())),
        ("addresses", lambda: addresses(_core.interfaces())),
        ("own address", lambda: own_address(_settings.interface(), peer)),
        ("ip versions", lambda: ip_versions()),
        ("programs", lambda: programs()),
        ("mpi", lambda: mpi()),
        ("slurm", lambda: slurm()),
    ]


# --- files ------------------------------------------------------------------------------------------


def private_folder(check: str, path: str, advice: str) -> Finding:
    """A folder must be its user's, and nobody else may change it."""
    try:
        _core.check_own_folder(path)
    except BusError as error:
        return problem(check, str(error), f"do what it says, or {advice}")
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o055:
        return warning(check, f"{path} ({mode:04o}) can be read by others", f"chmod 700 {path}")
    return ok(check, f"{path}: yours, {mode:04o}")


def mount_of(path: str, mounts: str) -> tuple[str, str, str]:
    """(where, type, options) of the file system that a path lies on, from the text of /proc/self/mounts."""
    path = os.path.realpath(path)
    best = ("/", "unknown", "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        where = fields[1].replace("\\040", " ")
        inside = path == where or path.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best[0]):
            best = (where, fields[2], fields[3])
    return best


def file_system(folder: str, mounts: str) -> Finding:
    """Hosts find the bus by its file: on a shared file system they all see it; its locks must hold on all of them."""
    where, kind, options = mount_of(folder, mounts)
    if kind not in SHARED_FILE_SYSTEMS:
        return ok("file system", f"{folder} is on {where} ({kind}): other hosts see it only if it is copied to them (scp -p)")
    local = [option for option in options.split(",") if option in LOCAL_LOCKS]
    if local:
        return warning(
            "file system",
            f"{folder} is on {where} ({kind}, shared), but locks hold on one host only ({local[0]})",
            "start one scheduler by hand, and name its bus file in BETTERBOX_BUS everywhere; or mount it with locks",
        )
    return ok("file system", f"{folder} is on {where} ({kind}), which other hosts share")


def locks(folder: str) -> Finding:
    """Two processes must not start two schedulers: the second lock on a file has to fail."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as first, open(first.name, "rb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return ok("locks", f"they hold in {folder}")
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            found = f"there are none in {folder}: {error.strerror}"
        else:
            return problem("locks", f"nothing can be written in {folder}: {error.strerror}", "make room, or use another folder")
    else:
        found = f"in {folder} two processes get the same lock"
    return problem("locks", found, "mount that file system with locks (Lustre: -o flock), or set BETTERBOX_BUS to a file elsewhere")


def bus_file(path: str) -> Finding:
    """The bus file holds the keys of the bus."""
    if not path:
        return ok("bus file", "none: the bus is named by an address")
    if not os.path.exists(path):
        return ok("bus file", f"{path} is not there: no bus has been started")
    try:
        _core.read_bus_file(path)
    except Exception as error:
        return problem("bus file", str(error), "use a copy that is yours and 0600, or start the bus anew")
    return ok("bus file", f"{path}: yours, {stat.S_IMODE(os.stat(path).st_mode):04o}")


def sockets(folder: str) -> Finding:
    """Sockets have short paths, and lie where nobody else can make any."""
    length = len(os.fsencode(folder)) + SOCKET_NAME_BYTES
    if length > SOCKET_PATH_BYTES:
        return problem(
            "sockets",
            f"paths in {folder} have {length} bytes; the system takes {SOCKET_PATH_BYTES}",
            "set XDG_RUNTIME_DIR to a folder with a shorter name",
        )
    for path in (os.path.dirname(folder), folder):
        try:
            if os.path.lexists(path):
                _core.check_own_folder(path, closed=True)
        except BusError as error:
            return problem("sockets", str(error), "do what it says, or set XDG_RUNTIME_DIR to a folder of yours")
    return ok("sockets", f"{folder}: paths of {length} bytes, {SOCKET_PATH_BYTES} are possible")


def shared_memory(folder: str) -> Finding:
    """Large values go through shared memory; without it they are copied."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return warning("shared memory", f"{folder} cannot be written: large values are copied", f"mount a tmpfs at {folder} (mode 1777)")
    size = os.statvfs(folder)
    whole, free = size.f_blocks * size.f_frsize, size.f_bavail * size.f_frsize
    found = f"{folder}: {_size(whole)}, {_size(free)} free"
    if whole < 256 << 20:
        return warning("shared memory", f"{found}: values that do not fit are copied", "make it larger (docker run --shm-size 2g)")
    if free < whole // 8:
        return warning("shared memory", f"{found}: new values are copied", f"see what fills it: ls -lS {folder}")
    return ok("shared memory", found)


def left_behind(socket_folder: str, memory: str, bus_answers: bool) -> Finding:
    """What killed processes left; the next ones sweep it, so it only tells that something was killed."""
    segments = [path for path in Path(memory).glob(f"betterbox-{os.geteuid()}-*") if _is_left(path)]
    dead = [] if bus_answers else [path for path in Path(socket_folder).glob("*") if _is_dead_socket(path)]
    if not segments and not dead:
        return ok("left behind", "nothing")
    taken = sum(path.stat().st_size for path in segments if path.exists())
    return warning(
        "left behind",
        f"{len(segments)} file(s) in {memory} ({_size(taken)}) and {len(dead)} socket(s) of processes that were killed",
        "nothing: the next process that sends a large value, and the next scheduler, remove them",
    )


def _is_left(path: Path) -> bool:
    """No process uses this segment, and it is not under way: who uses it has a lock of an open file, which is asked for."""
    try:
        with open(path, "rb") as stream:
            if stream.read(24)[16:] == _SENT:
                return False
            answer = fcntl.fcntl(stream, fcntl.F_OFD_GETLK, whole_file(fcntl.F_WRLCK))
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK)


def whole_file(kind: int) -> bytes:
    """A ``struct flock`` for a whole file."""
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _is_dead_socket(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def _size(amount: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"


# --- limits -----------------------------------------------------------------------------------------


def descriptors(soft: int, hard: int, peers: int) -> Finding:
    """Every process raises its soft limit to the hard one; a client with a box on each host needs most."""
    needed = 256 + DESCRIPTORS_PER_CONNECTION * peers
    found = f"soft limit {_limit(soft)}, hard limit {_limit(hard)}; {needed} are enough for {peers} peers"
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ok("descriptors", found)
    advice = "raise the hard limit: ulimit -Hn, LimitNOFILE= of a systemd unit, or /etc/security/limits.conf"
    if hard < 256:
        return problem("descriptors", found, advice)
    return warning("descriptors", f"{found}; these are enough for {(hard - 256) // DESCRIPTORS_PER_CONNECTION}", advice)


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else str(value)


def process_room() -> int:
    """Processes and threads that may still be started; -1: any number."""
    room = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        room.append(soft - _threads_of_user())
    for group in Path("/proc/self/cgroup").read_text().splitlines():
        folder = Path("/sys/fs/cgroup") / group.rpartition(":")[2].lstrip("/")
        most = folder / "pids.max"
        if most.exists() and most.read_text().strip() != "max":
            room.append(int(most.read_text()) - int((folder / "pids.current").read_text()))
    return min(room, default=-1)


def _threads_of_user() -> int:
    threads = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == os.geteuid():
                threads += len(os.listdir(path / "task"))
        except OSError:
            continue
    return threads


def processes(room: int, slots: int) -> Finding:
    """A slot is a process; a process has a few threads for the bus."""
    needed = 32 + 8 * slots
    if room < 0:
        return ok("processes", "no limit")
    found = f"{room} more may be started; a worker with {slots} slots takes up to {needed}, threads included"
    if room >= needed:
        return ok("processes", found)
    return problem("processes", found, "raise the limit (ulimit -u, TasksMax= of a systemd unit, --pids-limit of a container), or use fewer --slots")


def backlog(somaxconn: int) -> Finding:
    """Connections that wait to be accepted; the others try again after a second."""
    found = f"net.core.somaxconn is {somaxconn}"
    if somaxconn >= PEERS:
        return ok("backlog", found)
    return warning(
        "backlog",
        f"{found}: of more peers that come at once some have to try again",
        "on the scheduler's host: sysctl -w net.core.somaxconn=4096",
    )


# --- names and addresses ----------------------------------------------------------------------------


def host_name(name: str) -> Finding:
    """BetterBox tells others addresses, never names; but MPI, Slurm and people use names."""
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return warning(
            "host name",
            f"{name} does not resolve ({error.strerror}); BetterBox does not need it, mpirun and Slurm may",
            f"a line for {name} with its address in /etc/hosts",
        )
    text = ", ".join(found)
    if all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        return warning(
            "host name",
            f"{name} is {text} here, which other hosts would take for themselves (Debian's habit); BetterBox does not "
            "use it, mpirun and Slurm may",
            f"in /etc/hosts, give {name} its address on the network",
        )
    return ok("host name", f"{name} is {text}")


def addresses(all_of_them: list[tuple[str, str]]) -> Finding:
    """At least one that others can reach."""
    text = ", ".join(f"{name} {address}" for name, address in all_of_them) or "none"
    usable = [address for _, address in all_of_them if not ipaddress.ip_address(address.strip("[]")).is_loopback]
    if usable:
        return ok("addresses", text)
    return warning("addresses", f"{text}: only this host itself can reach them", "for several hosts, bring a network interface up")


def own_address(interface: str, peer: str) -> list[Finding]:
    """The address that a process here tells others, and whether connections to it come through."""
    if interface == "none":
        return [ok("own address", "none: BETTERBOX_INTERFACE=none keeps processes off the network")]
    try:
        address = _core.advertised_address(interface, peer)
    except Exception as error:
        return [problem("own address", str(error), "set BETTERBOX_INTERFACE, or --interface, to one of these")]
    how = "BETTERBOX_INTERFACE" if interface else f"the route to {peer}" if peer else "the route to the world"
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((address.strip("[]"), 0))
            listener.listen()
            endpoint = f"tcp://{address}:{listener.getsockname()[1]}"
            reached = _core.network_answers(endpoint, 1.0)
        except OSError as error:
            reached, endpoint = False, f"{address} ({error.strerror})"
    if not reached:
        return [problem("own address", f"{endpoint} cannot be reached even from here", "see this host's firewall, or name another --interface")]
    found = f"{address}, by {how}"
    if peer and ipaddress.ip_address(address.strip("[]")).is_loopback:
        return [ok("own address", f"{found}: the bus is on this host")]
    name = next((name for name, other in _core.interfaces() if other == address), "")
    if not interface and name.startswith(("docker", "br-", "virbr", "veth", "cni", "podman")):
        return [warning("own address", f"{found}: {name} is a bridge for containers", "name the interface of the network with --interface")]
    return [ok("own address", f"{found} ({name})")]


def ip_versions() -> Finding:
    """Which of them this host speaks."""
    spoken = []
    for name, family, address in (("IPv4", socket.AF_INET, "127.0.0.1"), ("IPv6", socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.bind((address, 0))
            spoken.append(name)
        except OSError:
            continue
    if not spoken:
        return problem("ip versions", "neither IPv4 nor IPv6: the loopback is down", "ip link set lo up")
    return ok("ip versions", " and ".join(spoken))


# --- other programs ---------------------------------------------------------------------------------


def programs() -> Finding:
    """The scheduler and the worker come with the package."""
    try:
        found = [_settings.program(name) for name in ("betterbox-scheduler", "betterbox-worker")]
    except Exception as error:
        return problem("programs", str(error), "install the package again")
    closed = [path for path in found if not os.access(path, os.X_OK)]
    if closed:
        return problem("programs", f"{closed[0]} cannot be run", f"chmod +x {closed[0]}; or the file system is mounted noexec")
    return ok("programs", f"those in {os.path.dirname(found[0])}")


def mpi() -> Finding:
    """What `betterbox mpi` needs: the MPI of mpirun, and what its mpicc has compiled or will."""
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
    named = _mpi_build.named(None)
    compiler = _mpi_build.find_compiler(None)
    try:
        shim = _mpi_build.find_made(compiler, named)
        library = _core.mpi_library(shim) if shim is not None else ""
    except BusError as error:
        return problem("mpi", str(error), "do what it says; betterbox mpi --build makes it anew where it is missing")
    if compiler is None and named is not None and shim is None:
        advice = "name the mpicc of the MPI that mpirun belongs to, or unset it"
        return problem("mpi", f"BETTERBOX_MPICC={named} is no program", advice)
    if mpirun is None or (compiler is None and shim is None):
        missing = " and ".join(name for name, there in (("mpirun", mpirun), ("mpicc", compiler or shim)) if not there)
        return ok("mpi", f"not usable: {missing} not found (needed for `betterbox mpi` only)")
    maker = compiler.path if compiler is not None else _mpi_build.maker(str(shim))
    if shim is None:
        found = f"{mpirun}; the first job compiles what calls MPI by {maker} (beforehand: betterbox mpi --build)"
    else:
        found = f"{mpirun}; {library}, called by {shim}, which {maker} has made"
    if importlib.util.find_spec("mpi4py") is None:
        found += "; without mpi4py there is no communicator for ranks="
    if compiler is not None and os.path.dirname(mpirun) != os.path.dirname(compiler.path):
        return warning("mpi", found, f"see that mpirun and {maker} are of one MPI; BETTERBOX_MPICC names another mpicc")
    return ok("mpi", found)


def slurm() -> Finding:
    """What runs workers in a batch system."""
    missing = [name for name in SLURM if shutil.which(name) is None]
    if not missing:
        job = os.environ.get("SLURM_JOB_ID")
        return ok("slurm", "its commands are there" + (f"; this is job {job}" if job else ""))
    if len(missing) == len(SLURM):
        return ok("slurm", "not here (needed for batch jobs only)")
    return warning("slurm", f"{', '.join(missing)} not found", "install the Slurm client's commands on this host")
