"""The workspace and its machine: source, lock, rights, disk, memory and cores."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dsrg.places import PlaceError, is_url, parse_place, reaching
from tasks.doctor import Finding, Patient
from tasks.doctor_programs import may_write
from tasks.doctor_versioning import locate_cache
from tasks.errors import UserError
from tasks.workspace import NO_STORES

_GIB = 2**30
_FULL, _TIGHT, _TMP = _GIB / 2, 3 * _GIB, _GIB
_FEW_FILES = 1000
_LITTLE_MEMORY = 3 * _GIB
_SHARED_MEMORY = _GIB / 4
_WRITTEN = (
    *(".", "params.yaml", "dvc.lock", "data", "data/rounds", "metrics", "reports", ".work", "restored"),
    *(".dvc", ".dvc/tmp", ".dvc/cache", ".git", "mlflow.db", "mlartifacts"),
)


def check_source(patient: Patient) -> Iterator[Finding]:
    """Check that the pictures are where params.yaml says."""
    if patient.params is None:
        return
    source = patient.params.source
    if is_url(source.path):
        yield from _check_url(source.kind, source.path)
        return
    place = patient.root / source.path
    remedy = "dsrg run PATH, with the folder of pictures"
    if source.kind == "synthetic":
        yield Finding("source", "ok", "pictures are drawn")
    elif not place.exists():
        yield Finding("source", "problem", f"`{place}` not found", remedy)
    elif not os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)):
        yield Finding("source", "problem", f"`{place}` may not be read", f"chmod -R u+rX '{place}'")
    elif place.is_dir() and not any(place.iterdir()):
        yield Finding("source", "problem", f"`{place}` is empty", remedy)
    else:
        yield Finding("source", "ok", f"{source.kind} {place}")


def _check_url(kind: str, url: str) -> Iterator[Finding]:
    try:
        place = parse_place(url)
        with reaching(url):
            there = place.is_dir()
    except PlaceError as error:
        yield Finding("source", "problem", str(error), "see there")
        return
    if there:
        yield Finding("source", "ok", f"{kind} {url}")
    else:
        yield Finding("source", "problem", f"`{url}` not found", "dsrg run URL, with the pictures")


def check_stores(patient: Patient) -> Iterator[Finding]:
    """Check that the object store of ``compute.stores`` answers; what is there, it does not look at."""
    url = NO_STORES if patient.params is None else patient.params.compute.stores
    if url == NO_STORES:
        return
    try:
        place = parse_place(url)
        with reaching(url):
            there = place.exists()
    except PlaceError as error:
        yield Finding("stores", "problem", str(error), "see there")
    else:
        yield Finding("stores", "ok", url if there else f"{url}: nothing there yet")


def check_locks(patient: Patient) -> Iterator[Finding]:
    """Check who works here."""
    from tasks.locking import find_holder

    try:
        holder = find_holder(patient.root)
    except UserError as error:
        yield Finding("lock", "problem", str(error), "see there")
        return
    if holder is None:
        yield Finding("lock", "ok", "nobody works here")
    else:
        yield Finding("lock", "warning", f"in use by {holder}", "dsrg wait, or stop that process")


def check_permissions(patient: Patient) -> Iterator[Finding]:
    """Check that what runs write may be written."""
    there = [name for name in _WRITTEN if (patient.root / name).exists()]
    wrong = [name for name in there if not may_write(patient.root / name)]
    if not wrong:
        yield Finding("permissions", "ok", "all that runs write may be written")
        return
    if patient.root.stat().st_uid == os.getuid() or "." not in wrong:
        remedy = f"chown -R $USER '{patient.root}', by whoever owns it; or mount it for writing"
    else:
        remedy = "work in a copy of your own: git clone"
    yield Finding("permissions", "problem", f"may not be written: {', '.join(wrong)}", remedy)


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Check the free room of each disk that runs write to."""
    cache = locate_cache(patient)
    places = {"workspace": patient.root, "DVC cache": cache, "temporary files": Path(tempfile.gettempdir())}
    disks: dict[int, list[str]] = {}
    for name, place in places.items():
        disks.setdefault(_climb(place).stat().st_dev, []).append(name)
    held = measure(patient.root / "data")
    for names in disks.values():
        yield _judge_disk(names, _climb(places[names[0]]), held)


def _judge_disk(names: list[str], place: Path, held: int) -> Finding:
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    where, room = ", ".join(names), f"{free / _GIB:.1f} GiB free"
    need = max(_TIGHT, 2 * held)  # a run anew, and its copy in the cache
    remedy = "free some; `dvc gc --workspace --all-experiments` drops what no kept run needs from the cache"
    if names == ["temporary files"]:
        need, remedy = _TMP, "free some, or name another place: export TMPDIR=/somewhere"
    if state.f_files and state.f_favail < _FEW_FILES:
        return Finding("disk", "problem", f"{where}: room for {state.f_favail} more files only", remedy)
    if free < _FULL:
        return Finding("disk", "problem", f"{where}: only {room}", remedy)
    if free < need:
        return Finding("disk", "warning", f"{where}: {room}, a run may need {need / _GIB:.1f}", remedy)
    return Finding("disk", "ok", f"{where}: {room}")


def measure(place: Path) -> int:
    """Measure the bytes of all files below a folder; links are not followed."""
    total = 0
    for folder, _, files in os.walk(place):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - thousands of them
            except OSError:  # gone meanwhile
                continue
    return total


def _climb(place: Path) -> Path:
    """Go up to the first folder that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def name_processor() -> str:
    """Name the processor as the system does: what is measured or summed on one is not so on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def check_machine(patient: Patient) -> Iterator[Finding]:
    """Check cores, memory, and the shared memory that loaders hand pictures over in."""
    from tasks.cores import count_workers

    cores = count_workers(0)
    free = measure_memory()
    system = f"{platform.system()} {platform.release()}, {name_processor()}"
    text = f"{system}, {cores} cores, {free / _GIB:.1f} GiB of memory free"
    if free < _LITTLE_MEMORY:
        remedy = "end other programs; fewer processes: dsrg run --set compute.workers=1, a smaller batch_size"
        yield Finding("machine", "warning", text, remedy)
    else:
        yield Finding("machine", "ok", text)
    shared = Path("/dev/shm")  # noqa: S108 - looked at only
    if shared.is_dir() and cores > 1:
        state = os.statvfs(shared)
        size = state.f_blocks * state.f_frsize
        if size < _SHARED_MEMORY:
            text = f"{shared} holds {size / 2**20:.0f} MiB: loaders may end with a bus error"
            yield Finding("machine", "warning", text, "in a container: start it with --shm-size=1g")


def measure_memory() -> int:
    """Measure the memory that may still be used, in bytes: the system's, or what a container leaves."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return min(free, max(0, int(limit) - used)) if limit.isdigit() else free
