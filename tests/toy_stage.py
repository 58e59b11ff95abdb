"""Body of every stage of a toy project: outputs made of nothing but a hash of what the stage reads.

Copied by ``conftest.py`` into the toy project as ``tasks/toy_stage.py``. What a stage reads and writes
is taken from ``dvc.yaml``, so the toy has the real graph. A file ``fail_STAGE`` or ``sleep_STAGE`` in
the project makes that stage fail, or wait until the file is removed.
"""

from __future__ import annotations

import hashlib
import re
import time
from functools import reduce
from pathlib import Path

from ruamel.yaml import YAML

from tasks import console
from tasks.errors import UserError
from tasks.params import Params
from tasks.workspace import Workspace


def run_toy(stage: str, params: Params, workspace: Workspace, round_key: str | None) -> None:
    label = stage if round_key is None else f"{stage}@{round_key}"
    root = workspace.root
    with (root / "bodies.log").open("a") as log:
        log.write(label + "\n")
    if (root / f"fail_{label}").exists():
        raise UserError(f"`data/toy.zarr` was told to fail in {label}. Remove: fail_{label}")
    if (root / f"sleep_{label}").exists():
        console.say(f"{label} sleeps")
        awake = time.monotonic() + 60
        while (root / f"sleep_{label}").exists() and time.monotonic() < awake:
            time.sleep(0.05)
    values = params.model_dump()
    spec = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"][stage]
    spec = spec.get("do", spec)

    def resolve(text: str) -> str:
        item = values["rounds"].get(round_key, {})
        names = {
            "key": round_key,
            "source.path": values["source"]["path"],
            "final_round": values["final_round"],
        }
        names |= {f"item.{name}": value for name, value in item.items()}
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(names[match[1]]), text)

    content = hashlib.sha256()
    for dep in sorted(resolve(dep) for dep in spec["deps"]):
        content.update(_read(root / dep))
    for key in (resolve(param) for param in spec["params"]):
        content.update(repr(reduce(lambda found, part: found[part], key.split("."), values)).encode())
    for done in range(4):
        with console.show_progress(label) as report:
            report(done, 4)
    outs = [*spec.get("outs", []), *spec.get("metrics", []), *spec.get("plots", [])]
    for out in [resolve(out) for out in outs if isinstance(out, str)]:
        _write(root / out, content.hexdigest())
    for place in [resolve(path) for entry in outs if isinstance(entry, dict) for path in entry]:
        workspace.write_json(place, {"available": False, "value": content.hexdigest()})


def _read(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def _write(path: Path, text: str) -> None:
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        path = path / ("summary.md" if path.name == "reports" else "content.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
