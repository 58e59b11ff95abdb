"""Data sets that torchvision can fetch; offline, what to fetch by hand, and where to put it."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from tasks import console
from tasks.errors import UserError

_YEAR = "2012"


def download_voc(folder: Path) -> Path:
    """Download PASCAL VOC 2012 (2 GB, with masks for 2913 pictures) and unpack it.

    A whole archive that lies in `folder` already is not fetched again, and no unpacked data set is
    touched.

    Parameters
    ----------
    folder : Path
        Gets ``VOCtrainval_11-May-2012.tar`` and ``VOCdevkit/VOC2012``.

    Returns
    -------
    Path
        The year's folder.

    Raises
    ------
    UserError
        No connection, or another file than the published one: names it, its address and its place.
    """
    from torchvision.datasets.utils import download_url, extract_archive
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = {key: str(value) for key, value in DATASET_YEAR_DICT[_YEAR].items()}
    year = folder / known["base_dir"]
    if year.exists():
        console.say(f"`{year}` is there already")
        return year
    archive = folder / known["filename"]
    partial = folder / ".unpacking"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        download_url(known["url"], folder, archive.name, known["md5"])
        console.say(f"unpacking {archive}")
        extract_archive(str(archive), str(partial))
    except (OSError, RuntimeError, tarfile.TarError) as error:
        if isinstance(error, OSError) and error.filename:
            raise  # this machine's own fault, such as a full disk
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"`{archive.name}` cannot be fetched ({what}): fetch it from {known['url']} on a machine that is "
            f"online, put it at `{archive}` and run the same command again"
        ) from None
    year.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial / known["base_dir"], year)
    shutil.rmtree(partial)
    return year
