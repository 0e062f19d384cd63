"""The commands in a manifest; that they work is tried in `tests/runbook/stages/test_backup.py`."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.manifest import DumpFormat
from runbook.rules.restore_by_hand import restore_by_hand

BACKUP = "backup_20250104_120000"


def commands(*, place: str = "/records", database: str = "shop", is_encrypted: bool = False) -> tuple[str, ...]:
    return restore_by_hand(
        BACKUP, place=place, database=database, dump_format=DumpFormat.DIRECTORY, is_encrypted=is_encrypted
    )


@pytest.mark.parametrize(
    ("place", "fetch"),
    [
        pytest.param("/records", f"cp -R /records/database/backups/{BACKUP} {BACKUP}", id="a folder"),
        pytest.param(
            "s3://shop/production",
            f"aws s3 cp --recursive s3://shop/production/database/backups/{BACKUP} {BACKUP}",
            id="S3",
        ),
    ],
)
def test_the_backup_is_fetched_from_where_it_is(place: str, fetch: str) -> None:
    assert fetch in commands(place=place)


def test_only_an_encrypted_backup_is_decrypted() -> None:
    assert not [line for line in commands() if "age" in line]
    (line,) = [line for line in commands(is_encrypted=True) if "age --decrypt" in line]
    assert "$AGE_IDENTITY_FILE" in line


@given(
    database=st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=63)
)
def test_no_name_of_a_database_is_more_than_one_word_of_a_command(database: str) -> None:
    (created,) = [line for line in commands(database=database) if line.startswith("createdb")]
    program, template, fresh = shlex.split(created)
    assert (program, template) == ("createdb", "--template=template0")
    assert fresh.endswith("_restored")
    assert len(fresh.encode()) <= 63
    assert database.startswith(fresh.removesuffix("_restored"))
