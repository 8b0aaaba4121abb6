"""The hub's settings: ``DSX_*`` variables and ``.env``, checked before anything starts.

This is the only module of the hub that reads the environment. A setting that cannot work gives a `SettingsError`: one
sentence with the name of the variable and the cure.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from dotenv import dotenv_values

from dsx.errors import InvalidRequestError
from dsx_server.filesystems import find_network_disk
from dsx_server.keys import keep_key

LOG_LEVELS = ("debug", "info", "warning", "error")
DIGESTS = ("background", "off")
MAX_WORKERS = 64


class SettingsError(InvalidRequestError):
    """The hub cannot start like this; the message names the variable and what to set it to."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a hub needs to know before it starts. Made by hand or with `Settings.load`; checked when made.

    Attributes:
        api_key: The key that clients must send; printable ASCII.
        dataset_path: The served folder; each folder directly inside it is a dataset.
        host: Address to listen on.
        port: TCP port to listen on; 0 lets the system choose a free one.
        state_dir: Folder for the index; never inside the served folder. None means one in the user's state
            directory, named by the served folder's real path, so that two served folders never share rows.
        log_level: One of `LOG_LEVELS`; at ``warning`` requests are not logged.
        workers: How many processes answer requests.
        rescan_s: Within this time, in s, a change is seen where the system does not tell of it.
        watch: Whether the system is asked to tell of changes.
        digests: Whether SHA-256 of entries is computed in the background; one of `DIGESTS`.
        key_file: Where the hub keeps the key that it has made for itself; None when it was given one.
        shows_key: Whether the greeting shows the key, because it was made just now.
    """

    api_key: str = field(repr=False)
    dataset_path: Path
    host: str = "0.0.0.0"  # noqa: S104 -- contract: other machines shall reach it
    port: int = 8000
    state_dir: Path | None = None
    log_level: str = "info"
    workers: int = 1
    rescan_s: float = 30.0
    watch: bool = True
    digests: str = "background"
    key_file: Path | None = None
    shows_key: bool = False

    def __post_init__(self) -> None:
        _check_key(self.api_key)
        _check_served(self.dataset_path)
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"DSX_PORT is {self.port}; set it to a port from 1 to 65535, or leave it out for 8000")
        if self.log_level not in LOG_LEVELS:
            raise SettingsError(f"DSX_LOG_LEVEL is {self.log_level!r}; set it to one of {', '.join(LOG_LEVELS)}")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise SettingsError(f"DSX_WORKERS is {self.workers}; set it to a number from 1 to {MAX_WORKERS}")
        if not 0 < self.rescan_s < float("inf"):
            raise SettingsError(f"DSX_RESCAN_S is {self.rescan_s}; set it to a number of seconds above 0, like 30")
        if self.digests not in DIGESTS:
            raise SettingsError(f"DSX_DIGESTS is {self.digests!r}; set it to one of {', '.join(DIGESTS)}")
        if self.state_dir is None:
            object.__setattr__(self, "state_dir", _default_state_dir(self.dataset_path))
        check_outside(self.dataset_path, self.index_dir, variable="DSX_STATE_DIR", what="the state folder")
        _prepare_state_dir(self.index_dir)

    @property
    def index_dir(self) -> Path:
        """The state folder as it is used, never None."""
        return self.state_dir or _default_state_dir(self.dataset_path)

    @classmethod
    def load(
        cls,
        *,
        env_folders: Sequence[Path] = (),
        environ: Mapping[str, str] | None = None,
        told: Mapping[str, str | None] | None = None,
        keeps_key: bool = False,
    ) -> Settings:
        """Read the settings from the environment and from the first ``.env`` found.

        Args:
            env_folders: Folders in which to look for a ``.env``, in this order; only the first one found is read. A
                variable that is set in the environment wins; an empty one counts as not set.
            environ: The environment; by default that of the process.
            told: What beats the environment, by variable; None counts as not told.
            keeps_key: Whether the hub makes and keeps a key of its own when none is set.

        Raises:
            SettingsError: A variable is missing or cannot work.
        """
        found = [folder / ".env" for folder in env_folders if (folder / ".env").is_file()]
        values = _read_env_file(found[0]) if found else {}
        values |= {name: value for name, value in (os.environ if environ is None else environ).items() if value}
        values |= {name: value for name, value in (told or {}).items() if value}
        dataset_path = _expand(
            _required(values, "DSX_DATASET_PATH", "the folder of your datasets"), variable="DSX_DATASET_PATH"
        )
        state_dir = _expand(values["DSX_STATE_DIR"], variable="DSX_STATE_DIR") if "DSX_STATE_DIR" in values else None
        key_file, shows_key = None, False
        if keeps_key and "DSX_API_KEY" not in values:
            _check_served(dataset_path)
            key_file, values["DSX_API_KEY"], shows_key = _keep_key(dataset_path, state_dir)
        settings = cls(
            api_key=_required(values, "DSX_API_KEY", "the key that clients will send"),
            dataset_path=dataset_path,
            host=values.get("DSX_HOST", cls.host),
            port=_parse_port(values.get("DSX_PORT", str(cls.port))),
            state_dir=state_dir,
            log_level=values.get("DSX_LOG_LEVEL", cls.log_level).lower(),
            workers=_parse_count(values, "DSX_WORKERS", cls.workers),
            rescan_s=_parse_number(values, "DSX_RESCAN_S", cls.rescan_s),
            watch=_parse_switch(values, "DSX_WATCH", cls.watch),
            digests=values.get("DSX_DIGESTS", cls.digests).lower(),
            key_file=key_file,
            shows_key=shows_key,
        )
        for file in found:
            check_outside(settings.dataset_path, file, variable="DSX_DATASET_PATH", what="the .env file with the key")
        return settings

    @property
    def log_level_number(self) -> int:
        """The level as `logging` counts it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]


def check_outside(served: Path, path: Path, *, variable: str, what: str) -> None:
    """Refuse a file or folder of the hub's own that lies inside the served folder, where clients could read it.

    Raises:
        SettingsError: It lies inside; the message names ``variable`` as the one to change.
    """
    real = Path(os.path.realpath(path))
    # A dataset may be a link: its folder is served wherever it lies.
    for root in (served, *(item for item in served.iterdir() if item.is_symlink())):
        if real.is_relative_to(os.path.realpath(root)):
            raise SettingsError(
                f"{what} {path} lies inside the served folder {root}, where clients could read it; "
                f"move it out or change {variable}"
            )


def _keep_key(served: Path, state_dir: Path | None) -> tuple[Path, str, bool]:
    folder = state_dir or _default_state_dir(served)
    check_outside(served, folder, variable="DSX_STATE_DIR", what="the state folder")
    _prepare_state_dir(folder)
    try:
        return keep_key(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the hub's own key cannot be kept in {folder} ({error}); set DSX_API_KEY, or another DSX_STATE_DIR"
        ) from error


def _read_env_file(file: Path) -> dict[str, str]:
    try:
        # A key is what it says, with its $ and braces. Editors on Windows put a byte order mark before the first name.
        values = dotenv_values(file, encoding="utf-8-sig", interpolate=False)
        return {name: value for name, value in values.items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read ({error}); mend it, or remove it and set the variables") from error


def _required(values: Mapping[str, str], name: str, what: str) -> str:
    value = values.get(name)
    if not value:
        raise SettingsError(f"{name} is not set; set it to {what}, in the environment or in a .env file")
    return value


def _expand(path: str, *, variable: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{variable} is {path!r}: {error}; write the whole path") from error


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise SettingsError(f"DSX_PORT is {text!r}; set it to a port from 1 to 65535, or leave it out for 8000")
    return int(text)


def _parse_count(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, str(default))
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) is None:
        raise SettingsError(f"{name} is {text!r}; set it to a whole number like {default}, or leave it out")
    return int(text)


def _parse_number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name, str(default))
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) is None:
        raise SettingsError(f"{name} is {text!r}; set it to a number like {default:g}, or leave it out")
    return float(text)


def _parse_switch(values: Mapping[str, str], name: str, default: bool) -> bool:
    text = values.get(name, "on" if default else "off").lower()
    if text not in ("on", "off"):
        raise SettingsError(f"{name} is {text!r}; set it to on or off, or leave it out")
    return text == "on"


def _check_key(key: str) -> None:
    if not (key and key.isascii() and key.isprintable() and key == key.strip()):
        raise SettingsError(
            "DSX_API_KEY must be printable ASCII without spaces around it, since it travels in an HTTP header; "
            'choose another, for example with: python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def _check_served(served: Path) -> None:
    if not served.exists():
        raise SettingsError(
            f"DSX_DATASET_PATH is {served}, which does not exist; set it to the folder of your datasets"
        )
    if not served.is_dir():
        raise SettingsError(
            f"DSX_DATASET_PATH is {served}, which is not a folder; set it to the folder of your datasets"
        )
    if not os.access(served, os.R_OK | os.X_OK):
        raise SettingsError(f"DSX_DATASET_PATH is {served}, which this user may not read; change its permissions")


def _default_state_dir(served: Path) -> Path:
    identity = hashlib.sha256(os.fsencode(os.path.realpath(served))).hexdigest()[:16]
    return platformdirs.user_state_path("dsx", appauthor=False) / identity


def _prepare_state_dir(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the state folder {folder} cannot be made ({error.strerror}); set DSX_STATE_DIR to one that can be written"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"the state folder {folder} cannot be written; set DSX_STATE_DIR to a folder that can")
    if (kind := find_network_disk(folder)) is not None:
        raise SettingsError(
            f"the state folder {folder} is on a network disk ({kind}), where the index could be damaged; "
            "set DSX_STATE_DIR to a folder on a disk of this machine"
        )
