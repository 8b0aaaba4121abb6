"""``dsx serve``: the hub, without variables."""

from __future__ import annotations

from pathlib import Path

import click

from dsx import MissingExtraError
from dsx.cli.hub import read_key


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--host", metavar="ADDRESS", help="Address to listen on; else DSX_HOST, else all of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; else DSX_PORT, else 8000.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that answer; else DSX_WORKERS, else 1.")
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the key; else DSX_API_KEY, else a key that the hub makes and keeps.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    folder: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    key_file: Path | None,
) -> None:
    """Serve the folders in FOLDER as datasets, each folder directly inside it as one.

    Says what to type on the other machine. Without a key the first start makes one, and shows it if this is a terminal;
    it is kept in the state folder, and later starts use it again. Ctrl-C ends the hub after what it is just sending.
    All other settings are variables, or lines of a .env file.
    """
    try:
        from dsx_server import Settings, SettingsError, end_process
        from dsx_server import serve as run_hub
        from dsx_server.settings import check_outside
    except ImportError as error:
        raise MissingExtraError(
            f'the hub\'s packages are not installed ({error}); install them with: pip install "dsx-hub[server]"'
        ) from error
    told = {
        "DSX_DATASET_PATH": None if folder is None else str(folder),
        "DSX_HOST": host,
        "DSX_PORT": None if port is None else str(port),
        "DSX_WORKERS": None if workers is None else str(workers),
        "DSX_API_KEY": None if key_file is None else read_key(key_file),
    }
    try:
        settings = Settings.load(env_folders=[Path.cwd()], told=told, keeps_key=True)
        if key_file is not None:
            check_outside(settings.dataset_path, key_file, variable="--key-file", what="the key file")
        end_process(run_hub(settings))
    except SettingsError as error:
        click.echo(f"dsx: the hub cannot start: {error}", err=True)
        ctx.exit(2)
