"""Which kind of disk a folder is on, as far as it matters: one of this machine, or one on the network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import psutil

# FUSE counts as one unless it is known to be local and whole: sshfs, rclone, s3fs are not local, mergerfs not whole.
_NETWORK = {
    "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "prl_fs", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "webdav",
}  # fmt: skip
_LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.ntfs", "fuse.ntfs-3g", "fuse.gocryptfs", "fuse.lxcfs"}


Mounts: TypeAlias = Sequence[tuple[str, str]]
"""Where something is mounted, and its type."""


def list_mounts() -> Mounts:
    """Return all that is mounted on this machine."""
    return [(each.mountpoint.rstrip(os.sep), each.fstype.lower()) for each in psutil.disk_partitions(all=True)]


def find_network_disk(folder: str | os.PathLike[str], mounts: Mounts | None = None) -> str | None:
    """Return the type of the network disk that ``folder`` is on; None when it is on a disk of this machine."""
    real = os.path.realpath(folder)
    best = kind = ""
    for mount, each in list_mounts() if mounts is None else mounts:
        if (real == mount or real.startswith(mount + os.sep)) and len(mount) >= len(best):
            best, kind = mount, each
    is_remote = kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE | {"fuseblk"})
    return kind if is_remote else None
