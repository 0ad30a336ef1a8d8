"""The `dragoman keys` commands: make, show, switch and delete API keys in the database; no server is needed."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from app.keys import ApiKey, KeyStore, current_month, generate_key
from model import ConfigurationError

keys = typer.Typer(no_args_is_help=True, help="Make, list, switch and delete API keys.")

DataDirectory = Annotated[
    Path | None,
    typer.Option(help="Folder of the database.", show_default="the setting data_directory", file_okay=False),
]
NameOrId = Annotated[str, typer.Argument(metavar="KEY", help="Name or id of a key.")]
_SECONDS_PER_DAY = 86_400


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call the key; unique.")],
    expires_days: Annotated[
        float | None, typer.Option(help="Days until it expires.", show_default="never", min=0.0)
    ] = None,
    characters_per_minute: Annotated[int, typer.Option(help="Rate limit; 0 for none.", min=0)] = 0,
    requests_per_minute: Annotated[int, typer.Option(help="Rate limit; 0 for none.", min=0)] = 0,
    characters_per_month: Annotated[int, typer.Option(help="Quota; 0 for none.", min=0)] = 0,
    admin: Annotated[bool, typer.Option("--admin", help="Let it manage what belongs to others.")] = False,
    data_directory: DataDirectory = None,
) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept."""
    if not name.strip() or not name.isprintable():
        raise ConfigurationError("name", "must have printable characters only, and at least one", name)
    now, secret = time.time(), generate_key()
    key = ApiKey(
        id=uuid.uuid4().hex,
        name=name,
        created=now,
        expires=None if expires_days is None else now + expires_days * _SECONDS_PER_DAY,
        is_admin=admin,
        characters_per_minute=characters_per_minute,
        requests_per_minute=requests_per_minute,
        characters_per_month=characters_per_month,
    )
    with _store(data_directory) as store:
        store.create(key, secret)
    print(secret)


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_directory: DataDirectory = None,
) -> None:
    """List the keys with their limits and what they used this month."""
    with _store(data_directory) as store:
        rows = [(key, store.usage(key.id, current_month())) for key in store.all_keys()]
    for key, used in rows:
        if as_json:
            print(json.dumps({**dataclasses.asdict(key), "characters_this_month": used.characters}))
            continue
        limits = {
            "characters/minute": key.characters_per_minute,
            "requests/minute": key.requests_per_minute,
            "characters/month": key.characters_per_month,
        }
        parts = [key.id, key.name, _state(key), f"used {used.characters} characters this month"]
        parts += [f"{limit} {unit}" for unit, limit in limits.items() if limit]
        print("  ".join(parts))


@keys.command()
def disable(key: NameOrId, data_directory: DataDirectory = None) -> None:
    """Let the service refuse a key from now on; `enable` takes that back."""
    with _store(data_directory) as store:
        store.set_disabled(store.get(key).id, True)


@keys.command()
def enable(key: NameOrId, data_directory: DataDirectory = None) -> None:
    """Let the service accept a disabled key again."""
    with _store(data_directory) as store:
        store.set_disabled(store.get(key).id, False)


@keys.command()
def delete(key: NameOrId, data_directory: DataDirectory = None) -> None:
    """Delete a key and the record of its usage; this cannot be taken back."""
    with _store(data_directory) as store:
        store.delete(store.get(key).id)


@keys.command()
def usage(
    key: NameOrId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_directory: DataDirectory = None,
) -> None:
    """Show what a key used in each month, in UTC."""
    with _store(data_directory) as store:
        months = store.history(store.get(key).id)
    for month in months:
        if as_json:
            print(json.dumps(dataclasses.asdict(month)))
        else:
            print(f"{month.month}  {month.characters} characters  {month.requests} requests")


@contextmanager
def _store(data_directory: Path | None) -> Iterator[KeyStore]:
    """Open the database of the settings, or of the folder that the command line names."""
    from app.settings import Settings  # pydantic takes a while, and the help needs none

    given: dict[str, Any] = {} if data_directory is None else {"data_directory": data_directory}
    folder = Settings.load(**given).data_directory
    if folder is None:
        raise ConfigurationError("data_directory", "must be set, by DRAGOMAN_DATA_DIRECTORY or --data-directory", None)
    store = KeyStore(folder)
    try:
        yield store
    finally:
        store.close()


def _state(key: ApiKey) -> str:
    """Say in words whether a key is valid."""
    words = ["disabled" if key.disabled else "expired" if key.expired() else "valid"]
    if key.expires is not None and not key.expired():
        words.append(f"until {datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d %H:%M} UTC")
    return " ".join([*words, "(admin)"] if key.is_admin else words)
