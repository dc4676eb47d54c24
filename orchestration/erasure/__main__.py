"""`scripts/erase-user`: erase what is personal of persons from everything that the warehouse keeps."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import yaml

from ingestion import settings
from ingestion.erased import Persons
from ingestion.errors import UserError
from ingestion.lake import Lake, first_line
from ingestion.lake.definition import streams
from ingestion.settings import PROJECT_ROOT, Settings
from ingestion.target.engines import held_ledger
from orchestration import commands
from orchestration.commands import Interrupted
from orchestration.erasure.declaration import declared
from orchestration.erasure.work import Erasure
from orchestration.run import only_run

PROGRAM = "erase-user"
_MOST_CHARACTERS = 200
_MEMBER_OF_NOBODY = {"integer": "-1", "text": "unknown"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=f"scripts/{PROGRAM}",
        description="Erase what is personal of these users, irreversibly, from lake, raw, quarantine, history, marts,"
        " published versions and logs, and keep it out of later loads. Their rows and numbers stay, and with them"
        " every total. Without --apply it says what it would do, and changes nothing. (docs/erasure.md)",
        epilog="WAREHOUSE_HOME and WAREHOUSE_SHOP say which warehouse. Nothing else may be at work in it.",
    )
    parser.add_argument("users", nargs="+", metavar="USER_ID", help="a user's number, as the shop has it")
    parser.add_argument("--apply", action="store_true", help="do it")
    parser.add_argument(
        "--administrator",
        help="on a PostgreSQL server of your own: libpq's connection of its superuser or the database's owner, as in"
        " 'host=db.example.com user=admin'; its password in PGPASSWORD or ~/.pgpass",
    )
    return parser.parse_args(arguments)


def run(users: list[str], apply: bool, administrator: str | None = None) -> int:
    """Erase, or say what would be; 1 when something is left."""
    home = settings.load()
    tables = declared(home.shop)
    if not tables:
        if home.home.exists():
            # Raises where the warehouse is another shop's, which may have persons.
            with held_ledger(home):
                pass
        print(f"{PROGRAM}: the shop {home.shop} has no personal data: there is nothing to erase")
        return 0
    id_type = _id_type(home.shop)
    persons_of = {
        table.stream.id: Persons(table.person, tuple(table.columns), id_type == "integer") for table in tables
    }
    persons = [_usable(user, next(iter(persons_of.values())), id_type) for user in users]
    if not streams(Lake(home.lake)):
        raise UserError(
            f"{home.lake} has no batches; check WAREHOUSE_HOME. Without its lake a warehouse cannot be made anew"
        )
    erasure = Erasure(home, tables, persons_of, _parameters(administrator) if administrator else None)
    with only_run(home), erasure.alone():
        with erasure.warehouse.held():
            erasure.look(persons, keyed=apply)
            _describe(erasure)
            if not apply:
                if erasure.is_needed:
                    print(
                        "Raw is made anew from the lake: versions that `warehouse-lake retain` took out of the lake"
                        " leave raw and the marts too."
                    )
                do = "erase it" if erasure.is_needed else "keep it out of later loads"
                print(f"Nothing was changed. To {do}: scripts/{PROGRAM} --apply {shlex.join(erasure.pending.persons)}")
                return 0
            erasure.suppress()
            if not erasure.is_needed:
                print("On the suppression list now: what later loads bring of them is erased as it comes in.")
                return 0
            _step("logs and the like", erasure.clean_files)
            _step("lake", erasure.redact_lake)
        _step("raw", erasure.rebuild)
        _step("marts", erasure.build)
        _step("published versions", erasure.publish)
        erasure.forget()
        with erasure.warehouse.held():
            verified = erasure.verify()
            certificate = erasure.end(verified)
    return _conclude(home, erasure, verified, certificate)


def _describe(erasure: Erasure) -> None:
    """What the warehouse has of the persons; never what it says of them."""
    pending = erasure.pending
    print(f"{PROGRAM}: {_listed(pending.persons)} of {erasure.home.shop}, warehouse {erasure.warehouse.name}")
    for place, count in pending.counts.items():
        if count:
            print(f"    {place:<40} {count:>8}")
    shared = sum(value.is_shared for value in pending.values)
    if pending.values:
        shared_text = f", {shared} of them others' or in the project's examples too, and left there" if shared else ""
        print(f"    {'names, e-mails and phones':<40} {len(pending.values):>8}{shared_text}")
    if erasure.went_on:
        print(f"goes on with what was begun at {pending.began_at} and did not end")
    for person in erasure.strangers:
        print(f"nothing of user {person} is held")
    if not erasure.is_needed and len(erasure.strangers) < len(pending.persons):
        print("nothing personal of them is held any more: only their numbers")


def _step(name: str, do: Callable[[], None]) -> None:
    do()
    print(f"{PROGRAM}: {name}: done", flush=True)


def _conclude(home: Settings, erasure: Erasure, verified: dict, certificate: Path) -> int:
    """Print the certificate; 1 when something was found."""
    text = certificate.read_text()
    print(f"\nCertificate ({certificate}):\n{text}", end="")
    for remark in erasure.remarks:
        print(f"{remark}.")
    print(
        f"Not looked at, because it is the source's: {home.data}, and databases that tap-postgres reads. Whoever is"
        " erased there too cannot come back; whoever is not comes without personal data (docs/erasure.md)."
    )
    if verified["elsewhere"]:
        print(
            "Equal to a value of theirs, where no persons are, and left there; look whether it speaks of them: "
            + "; ".join(verified["elsewhere"])
        )
    if verified["found"]:
        print(f"{PROGRAM}: not all is erased; it was found in:", file=sys.stderr)
        for place in verified["found"]:
            print(f"    {place}", file=sys.stderr)
        return 1
    besides = " but what is said above" if verified["elsewhere"] else ""
    print(f"{PROGRAM}: {_listed(erasure.pending.persons)}: erased; nothing was found any more{besides}")
    return 0


def _listed(persons: list[str]) -> str:
    return f"user {persons[0]}" if len(persons) == 1 else f"{len(persons)} users"


def _usable(user: str, persons: Persons, id_type: str) -> str:
    """A user's id in the one form that the suppression list has. Raises UserError for what can be nobody's."""
    stripped = user.strip()
    if not stripped or len(stripped) > _MOST_CHARACTERS or not stripped.isprintable():
        raise UserError(
            f"{user[:_MOST_CHARACTERS]!r} is no user's id: give the number or text by which the shop knows the user"
        )
    if not persons.is_number(stripped):
        raise UserError(f"{stripped!r} is no user's id: the ids of this shop are whole numbers")
    number = persons.normalised(stripped)
    if number.lower() == _MEMBER_OF_NOBODY[id_type]:
        raise UserError(f"{stripped} is the unknown user, which is nobody")
    return number


def _parameters(administrator: str) -> dict[str, str]:
    import psycopg2.extensions  # Only who has a server needs it.

    try:
        return psycopg2.extensions.parse_dsn(administrator)
    except psycopg2.ProgrammingError:
        # Its message would repeat what it could not read, which may be a password.
        raise UserError("--administrator cannot be read; write 'host=db.example.com user=admin'") from None


def _id_type(shop: str) -> str:
    """`integer` or `text`: what the shop's ids of users are."""
    variables = yaml.safe_load((PROJECT_ROOT / "dbt_project" / "dbt_project.yml").read_text())["vars"]
    return variables["shops"].get(shop, {}).get("user_id_type", "text")


def main() -> int:
    """Erase; the exit code is 0 only when nothing is left, or nothing was to be done."""
    options = parse()
    try:
        with commands.interruptible():
            return run(options.users, options.apply, options.administrator)
    except (UserError, OSError, duckdb.Error) as error:
        text = str(error) if isinstance(error, UserError) else first_line(error)
        print(f"{PROGRAM}: {text}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"{PROGRAM}: {error}: type the same again, and it ends what it began", file=sys.stderr)
        return 128 + error.signal_number


if __name__ == "__main__":
    sys.exit(main())
