"""How a backup is laid out, and the commands that restore it without this project."""

from __future__ import annotations

import shlex

from runbook.manifest import DumpFormat

DUMP_FOLDER = "dump"
DUMP_FILE = "dump.pgc"
GLOBALS = "globals.sql"
LAYOUT = "layout.json"
ZST = ".zst"
AGE = ".age"
_JOBS = 4


def restore_by_hand(
    backup_id: str, *, place: str, database: str, dump_format: DumpFormat, is_encrypted: bool
) -> tuple[str, ...]:
    """Return the shell commands that restore a backup into a new database, in order.

    They need the client programs of PostgreSQL, `zstd`, for an encrypted backup `age`, and for one in S3 `aws`; the
    server is found through `PGHOST`, `PGUSER` and so on, the key through `AGE_IDENTITY_FILE`.

    Args:
        backup_id: the backup.
        place: the store, a folder or `s3://bucket/prefix`.
        database: name of the database that was backed up.
        dump_format: how it was dumped.
        is_encrypted: whether its files are encrypted.

    Source: PostgreSQL manual, "pg_restore"; age(1).
    """
    stored = shlex.quote(f"{place}/database/backups/{backup_id}")
    fresh = shlex.quote(f"{database.encode()[:40].decode(errors='ignore')}_restored")
    fetch = "aws s3 cp --recursive" if place.startswith("s3://") else "cp -R"
    decrypt = f'age --decrypt --identity "$AGE_IDENTITY_FILE" --output "${{1%{AGE}}}" "$1"'
    return (
        "umask 077",
        f"{fetch} {stored} {backup_id}",
        *([f"find {backup_id} -name '*{AGE}' -exec sh -c '{decrypt}' sh {{}} \\;"] if is_encrypted else []),
        f"find {backup_id} -name '*{ZST}' -exec zstd --decompress --quiet {{}} +",
        f"createdb --template=template0 {fresh}",
        f"psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=database={fresh} --file={backup_id}/{GLOBALS} {fresh}",
        f"pg_restore --jobs={_JOBS} --exit-on-error --dbname={fresh} "
        f"{backup_id}/{DUMP_FOLDER if dump_format is DumpFormat.DIRECTORY else DUMP_FILE}",
    )
