"""``dsx ls``, ``info`` and ``cat``: what a hub has, without fetching more than is shown."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import BinaryIO

import click

from dsx import DatasetHubClient, EntryNotFoundError, IntegrityError, InvalidRequestError, Manifest
from dsx.cli.amounts import format_bytes
from dsx.cli.hub import show_json, show_name, split_target, with_hub
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import head_hash
from dsx.protocol.text import printable, shown

WINDOW_BYTES = 8 * 1024 * 1024
"""So many bytes of an entry are in memory at once."""

FOLDERS_SHOWN = 10

with_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


@click.command("ls")
@click.argument("target", metavar="[DATASET[/PREFIX]]", required=False)
@click.option("-l", "is_long", is_flag=True, help="Print size in bytes and time of change before each name.")
@with_json
@with_hub()
def list_names(hub: DatasetHubClient, target: str | None, is_long: bool, is_json: bool) -> None:
    """List the datasets of the hub, or the files of a dataset below a folder, one a line."""
    if target is None:
        names = hub.list_datasets()
        if is_json:
            show_json(names)
        elif is_long:
            _show_datasets(hub, names)
        else:
            for name in names:
                show_name(name)
        return
    dataset, prefix = split_target(target)
    entries = _select(hub.load_manifest(dataset), dataset, prefix.rstrip("/"))
    if is_json:
        show_json([{"path": entry.path, "size": entry.size, "mtime": _format_time(entry)} for entry in entries])
        return
    width = max((len(str(entry.size)) for entry in entries), default=0) if is_long else 0
    for entry in entries:
        if is_long:
            click.echo(f"{entry.size:{width}}  {_format_time(entry) or '-':20}  {printable(entry.path)}")
        else:
            show_name(entry.path)


def _show_datasets(hub: DatasetHubClient, names: list[str]) -> None:
    for name in names:
        manifest = hub.load_manifest(name)
        click.echo(f"{manifest.total_bytes:15}  {len(manifest):10}  {printable(name)}")


def _select(manifest: Manifest, dataset: str, prefix: str) -> list[ManifestEntry]:
    """Return the entry of a name, or all in a folder of this name."""
    if not prefix:
        return list(manifest)
    exact = manifest.find(prefix)
    found = [exact] if exact is not None else [entry for entry in manifest if entry.path.startswith(f"{prefix}/")]
    if not found:
        raise EntryNotFoundError(f"dataset {shown(dataset)} has no {shown(prefix)}; see: dsx ls {dataset}")
    return found


def _format_time(entry: ManifestEntry) -> str | None:
    if entry.mtime_ns is None:
        return None
    return datetime.fromtimestamp(entry.mtime_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@click.command()
@click.argument("dataset")
@with_json
@with_hub()
def info(hub: DatasetHubClient, dataset: str, is_json: bool) -> None:
    """Show what a dataset has: how many files, how large, in which folders, and which revision that is."""
    manifest = hub.load_manifest(dataset)
    folders = Counter(entry.path.rpartition("/")[0] for entry in manifest)
    newest = max((entry.mtime_ns or 0 for entry in manifest), default=0)
    changed = datetime.fromtimestamp(newest // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if newest else None
    if is_json:
        told = {"dataset": dataset, "revision": manifest.revision, "files": len(manifest)}
        show_json(told | {"bytes": manifest.total_bytes, "changed": changed, "folders": dict(sorted(folders.items()))})
        return
    largest = max(manifest, key=lambda entry: entry.size, default=None)
    rows = [("dataset", printable(dataset)), ("revision", manifest.revision), ("files", f"{len(manifest):,}")]
    rows += [("size", f"{format_bytes(manifest.total_bytes)} ({manifest.total_bytes:,} bytes)")]
    rows += [("changed", changed or "unknown")]
    if largest is not None:
        rows += [("largest", f"{printable(largest.path)} ({format_bytes(largest.size)})")]
    for name, value in rows:
        click.echo(f"{name:10}{value}")
    if set(folders) != {""}:
        click.echo(f"{'folders':10}{len(folders):,}")
        for folder, count in sorted(folders.items())[:FOLDERS_SHOWN]:
            click.echo(f"{'':10}{count:>10,}  {printable(folder) or '.'}")
        if len(folders) > FOLDERS_SHOWN:
            click.echo(
                f"{'':10}{'':>10}  and {len(folders) - FOLDERS_SHOWN:,} more: dsx info --json {printable(dataset)}"
            )


@click.command("cat")
@click.argument("targets", metavar="DATASET/PATH...", nargs=-1, required=True)
@with_hub()
def show_bytes(hub: DatasetHubClient, targets: tuple[str, ...]) -> None:
    """Write the bytes of files to standard output, one after another."""
    out = sys.stdout.buffer
    for target in targets:
        dataset, path = split_target(target)
        if not path:
            raise InvalidRequestError(f"{shown(target)} names no file; write it like: dsx cat cats/train/1.png")
        manifest = hub.load_manifest(dataset)
        entry = manifest.find(path)
        if entry is None:
            raise EntryNotFoundError(f"dataset {shown(dataset)} has no {shown(path)}; see: dsx ls {dataset}")
        if entry.size <= WINDOW_BYTES:
            out.write(hub.get_file_bytes(dataset, path))
        else:
            _copy_long(hub, dataset, entry, out)
    out.flush()


def _copy_long(hub: DatasetHubClient, dataset: str, entry: ManifestEntry, out: BinaryIO) -> None:
    """Write an entry that is too long for memory, and hold all of it against what the manifest says."""
    whole = hashlib.sha256()
    count = 0
    for start in range(0, entry.size, WINDOW_BYTES):
        (data,) = hub.read_ranges(dataset, [(entry.path, start, min(start + WINDOW_BYTES, entry.size))])
        if start == 0 and head_hash(data) != entry.hash:
            break
        whole.update(data)
        count += len(data)
        out.write(data)
    if count != entry.size or entry.digest not in (None, whole.hexdigest()):
        raise IntegrityError(
            f"{shown(entry.path)} of dataset {shown(dataset)} changed while it was read; read it again"
        )
