"""What ``dsx pull`` and ``dsx verify`` share: which entries are meant, and in which folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from dsx._access import Access
from dsx._cache import Cache
from dsx._manifests import Manifests
from dsx._pull import find_manifest
from dsx._selecting import Options, Selection, Verify
from dsx.manifest import Manifest

_OPTIONS = (
    click.argument("dataset"),
    click.argument("dest", required=False, type=click.Path(file_okay=False, path_type=Path)),
    click.option("--include", metavar="PATTERN", multiple=True, help="Only paths that match; may be repeated."),
    click.option("--exclude", metavar="PATTERN", multiple=True, help="No paths that match; may be repeated."),
    click.option("--revision", metavar="REVISION", help="The state of the dataset that is meant; else the newest."),
)


class Chosen(NamedTuple):
    """What the person has chosen.

    Attributes:
        dataset: Name of the dataset.
        dest: A folder of one's own; None for the cache.
        include: Patterns of which a path has to match one; none for all paths.
        exclude: Patterns of which a path must match none.
        revision: State of the dataset; None for the newest.
    """

    dataset: str
    dest: Path | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    revision: str | None

    def make_options(self, verify: Verify, *, deletes: bool = False) -> Options:
        """Return them as `download_dataset` knows them.

        Raises:
            InvalidRequestError: Something is no pattern.
        """
        options = Options(None, self.include or None, self.exclude or None, verify, deletes)
        options.check(has_dest=self.dest is not None)
        return options

    def select(self, access: Access, options: Options, *, keeps: bool) -> tuple[Manifest, Selection]:
        """Ask the hub for the manifest; return it, and what is chosen of it.

        Args:
            access: The way to the hub.
            options: What `make_options` made.
            keeps: Whether the manifest is kept in the cache.
        """
        manifests = access.manifests if keeps else Manifests(access.transport, access.cache, keeps=False)
        manifest = find_manifest(manifests, self.dataset, self.revision, may_be_old=False)
        return manifest, options.select(self.dataset, manifest, is_pinned=self.revision is not None)


def with_choice(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the arguments and options that choose entries and a folder, as a `Chosen` after the client."""

    @functools.wraps(verb)
    def run(client: object, /, **arguments: Any) -> Any:
        chosen = Chosen(**{name: arguments.pop(name) for name in Chosen._fields})
        source = click.get_current_context().get_parameter_source("cache_dir")
        if chosen.dest is not None and source is ParameterSource.COMMANDLINE:
            raise click.UsageError("--cache-dir names the cache, and DEST a folder of your own: give one of them")
        return verb(client, chosen, **arguments)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def find_place(folder: Cache, dataset: str) -> Path:
    """Return the folder that the entries of a dataset lie in, from the root."""
    return folder.layout.find_folder(folder.root, dataset).expanduser().absolute()


def to_text(name: str) -> str:
    """Return the name of a local file as JSON can carry it: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
