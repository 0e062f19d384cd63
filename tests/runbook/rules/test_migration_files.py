"""Which files are migrations, in which order, and what nobody can know for sure."""

from __future__ import annotations

import hashlib
import random
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.migration_checksums import Drift, checksum, drift, normalised_checksum
from runbook.rules.migration_files import (
    Discovery,
    Irregularity,
    Migration,
    discover,
    halves,
    out_of_order,
    pending,
    refuse,
    unknown,
)
from runbook.rules.migration_names import Phase, Role, history_name, parse_path


def found(*names: str, left_out: tuple[str, ...] = ()) -> Discovery:
    return discover([f"db/{name}" for name in names], "db", left_out=left_out)


def order(*names: str) -> list[str]:
    return [migration.name for migration in found(*names).migrations]


LAYOUTS = {
    "numbers": (["0002_b.sql", "0001_a.sql"], ["0001_a", "0002_b"]),
    "numbers without zeros": (["10_c.sql", "9_b.sql", "1_a.sql"], ["1_a", "9_b", "10_c"]),
    "numbers alone": (["000002.sql", "000001.sql"], ["000001", "000002"]),
    "Flyway": (["V2__b.sql", "V1__a.sql", "U1__a.sql"], ["V1__a", "V2__b"]),
    "to the second": (["20250104120001_b.sql", "20250104120000_a.sql"], ["20250104120000_a", "20250104120001_b"]),
    "to the minute": (["202501041201_b.sql", "202501041200_a.sql"], ["202501041200_a", "202501041201_b"]),
    "days": (["20250105_b.sql", "20250104_a.sql"], ["20250104_a", "20250105_b"]),
    "split times": (["20250104_120001_b.sql", "20250104_120000_a.sql"], ["20250104_120000_a", "20250104_120001_b"]),
    "seconds since 1970": (["1736000001_b.sql", "1736000000_a.sql"], ["1736000000_a", "1736000001_b"]),
    "milliseconds since 1970": (["1736000000002-b.sql", "1736000000001-a.sql"], ["1736000000001-a", "1736000000002-b"]),
    "up and down folders": (["0002_b/up.sql", "0002_b/down.sql", "0001_a/up.sql"], ["0001_a", "0002_b"]),
    "diesel": (
        ["2025-01-04-120001_b/up.sql", "2025-01-04-120000_a/up.sql"],
        ["2025-01-04-120000_a", "2025-01-04-120001_b"],
    ),
    "Prisma": (["20250104120000_a/migration.sql", "migration_lock.toml"], ["20250104120000_a"]),
    "up and down files": (["2_b.up.sql", "2_b.down.sql", "1_a.up.sql", "1_a.down.sql"], ["1_a", "2_b"]),
    "dotted": (
        ["03.04.00_50_post_b.sql", "03.04.00_01_pre_b.sql", "02.10.00_01_a.sql"],
        ["02.10.00_01_a", "03.04.00_01_pre_b", "03.04.00_50_post_b"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_in_its_order(layout: str) -> None:
    files, expected = LAYOUTS[layout]
    discovery = found(*files)
    assert [migration.name for migration in discovery.migrations] == expected
    assert discovery.ambiguities == ()


COMPANIONS = {
    "0007_a_ROLLBACK.sql": Role.DOWN,
    "0007_a_rollback.sql": Role.DOWN,
    "0007_a.down.sql": Role.DOWN,
    "0007_a_down.sql": Role.DOWN,
    "0007_ROLLBACK.sql": Role.DOWN,
    "0007_a_VALIDATION.sql": Role.CHECK,
    "0007_a_TESTS.sql": Role.CHECK,
    "0007_a.sql.bak": Role.LEFTOVER,
    "0007_a.bak": Role.LEFTOVER,
    "0007_a.sql~": Role.LEFTOVER,
    "0007_a.sql.orig": Role.LEFTOVER,
}


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_companion_belongs_to_its_migration_and_never_runs_forward(name: str) -> None:
    discovery = found("0007_a.sql", "0008_b.sql", name)
    first, second = discovery.migrations
    assert (first.name, second.name) == ("0007_a", "0008_b")
    assert (first.down == f"db/{name}", f"db/{name}" in first.checks, f"db/{name}" in discovery.companions) == (
        COMPANIONS[name] is Role.DOWN,
        COMPANIONS[name] is Role.CHECK,
        COMPANIONS[name] is Role.LEFTOVER,
    )


def test_a_name_in_lower_case_that_only_looks_like_a_check_is_a_migration() -> None:
    assert order("0007_ab_tests.sql", "0006_validation.sql") == ["0006_validation", "0007_ab_tests"]


@pytest.mark.parametrize(
    "name",
    ["setup.sql", "README.sql", "old/0001_a.sql", "0009_gone_ROLLBACK.sql", "0009_gone_TESTS.sql", "\u0661_a.sql"],
)
def test_what_fits_nothing_is_named_and_can_be_left_out(name: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        found("0001_a.sql", name)
    assert name in str(raised.value)
    assert "left_out" in str(raised.value)
    left = PurePosixPath(name).name
    discovery = found("0002_b.sql", name, left_out=(left,))
    assert (discovery.left_out, len(discovery.migrations)) == ((f"db/{name}",), 1)


def test_two_down_scripts_of_one_migration_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"0001_a\.down\.sql.*0001_a_ROLLBACK\.sql|0001_a_ROLLBACK.*down"):
        found("0001_a.sql", "0001_a.down.sql", "0001_a_ROLLBACK.sql")


def test_a_name_to_leave_out_that_fits_no_file_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="left_out: '0009_gone'"):
        found("0001_a.sql", left_out=("0009_gone",))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["1_a.sql", "0001_b.sql"], Irregularity.SAME_VERSION),
        (["20250104000000_a.sql", "20250104_b.sql"], Irregularity.SAME_VERSION),
        (["0001_a.sql", "20250104_b.sql"], Irregularity.MIXED_VERSIONS),
        (["20250104_a.sql", "20250104120000_b.sql"], Irregularity.MIXED_VERSIONS),
        (["1736000000_a.sql", "1736000000001_b.sql"], Irregularity.MIXED_VERSIONS),
        (["0001_a.sql", "0002_a_FIXED.sql"], Irregularity.VARIANT),
        (["0001_a.sql", "0001_a_COMPAT.sql"], Irregularity.VARIANT),
        (["0001_a.sql", "0003_a_corrected.sql"], Irregularity.VARIANT),
        (["0001_a.sql", "0002_a_v2.sql"], Irregularity.VARIANT),
    ],
)
def test_what_nobody_can_know_is_said_and_refused_unless_allowed(names: list[str], kind: Irregularity) -> None:
    ambiguities = found(*names).ambiguities
    [ambiguity] = [item for item in ambiguities if item.kind is kind]
    assert set(ambiguity.paths) == {f"db/{name}" for name in names}
    assert all(name in ambiguity.detail for name in names)
    with pytest.raises(InvalidInputError, match=kind):
        refuse(ambiguities, ())
    refuse(ambiguities, {item.kind for item in ambiguities})


def test_everything_that_is_refused_is_said_at_once() -> None:
    with pytest.raises(InvalidInputError) as raised:
        refuse(found("1_a.sql", "0001_b.sql", "20250104_c.sql").ambiguities, ())
    assert all(word in str(raised.value) for word in ("same-version", "mixed-versions", "1_a", "0001_b", "20250104_c"))


def test_a_timestamp_counted_up_by_hand_comes_later_on_its_day() -> None:
    assert order("20250104000099_b.sql", "20250104000001_a.sql") == ["20250104000001_a", "20250104000099_b"]


NUMBERS = st.sets(st.integers(1, 40))


@given(files=NUMBERS, applied=NUMBERS, seed=st.integers(0, 99))
def test_pending_is_a_set_difference_in_any_order_of_the_files(files: set[int], applied: set[int], seed: int) -> None:
    names = [f"{number}_m.sql" for number in files]
    random.Random(seed).shuffle(names)  # noqa: S311 - an order, not a secret
    migrations = found(*names).migrations
    recorded = [f"{number}_m{'.sql' if number % 2 else ''}" for number in applied]
    left = pending(migrations, recorded)
    assert [migration.name for migration in left] == [f"{number}_m" for number in sorted(files - applied)]
    assert unknown(migrations, recorded) == sorted(f"{number}_m" for number in applied - files)
    late = [item.paths[0] for item in out_of_order(migrations, recorded)]
    assert late == [f"db/{number}_m.sql" for number in sorted(files - applied) if applied and number < max(applied)]


@given(
    st.lists(
        st.sampled_from(sorted({name for files, _ in LAYOUTS.values() for name in files} | set(COMPANIONS))),
        unique=True,
    )
)
def test_every_file_ends_up_exactly_once_or_is_refused(names: list[str]) -> None:
    try:
        discovery = found(*names)
    except InvalidInputError:
        return
    used = [path for item in discovery.migrations for path in (item.path, item.down, *item.checks) if path]
    assert sorted([*used, *discovery.companions]) == sorted(f"db/{name}" for name in names if not name.endswith("toml"))


def plan(*names: str) -> list[Migration]:
    return list(found(*names).migrations)


def test_the_second_half_waits_while_a_release_is_running() -> None:
    pre, post = halves(plan("1_a.sql", "2_b.post.sql", "3_post_c.sql"), has_release=True)
    assert ([item.name for item in pre], [item.name for item in post]) == (["1_a"], ["2_b.post", "3_post_c"])
    assert {item.phase for item in post} == {Phase.POST}


def test_without_a_release_everything_runs_in_order() -> None:
    pre, post = halves(plan("1_a.sql", "2_b.post.sql", "3_c.sql"), has_release=False)
    assert ([item.name for item in pre], post) == (["1_a", "2_b.post", "3_c"], [])


def test_a_first_half_after_a_second_one_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"db/3_c\.sql.*one of the second half, as db/2_b\.post\.sql"):
        halves(plan("1_a.sql", "2_b.post.sql", "3_c.sql"), has_release=True)


@pytest.mark.parametrize(
    ("text", "name"), [("0001_a", "0001_a"), ("0001_a.sql", "0001_a"), ("0001_a.up.sql", "0001_a")]
)
def test_a_history_may_write_names_with_their_ending(text: str, name: str) -> None:
    assert history_name(text) == name


@given(st.text(max_size=40))
def test_no_name_makes_it_crash(name: str) -> None:
    path = PurePosixPath("db") / name.replace("/", "_").replace("\0", "_")
    if path.name and path != PurePosixPath("db"):
        parse_path(path, PurePosixPath("db"))


TEXT = "CREATE TABLE items (\n  id int, -- the key\n  name text DEFAULT 'a  b'\n);\n"


def digest(name: str, text: str) -> str:
    return hashlib.new(name, text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (checksum(TEXT), Drift.SAME),
        (digest("md5", TEXT), Drift.SAME),
        (digest("sha1", TEXT).upper(), Drift.SAME),
        (digest("sha256", TEXT.replace("\n", "\r\n")), Drift.COSMETIC),
        (digest("md5", f"\ufeff{TEXT}"), Drift.COSMETIC),
        (digest("sha256", TEXT.rstrip()), Drift.COSMETIC),
        (checksum(TEXT + "SELECT 1;"), Drift.EDITED),
        ("12345678", Drift.UNKNOWN),
        ("v1:not-a-hash", Drift.UNKNOWN),
        (None, Drift.UNKNOWN),
    ],
)
def test_a_file_is_compared_by_whatever_was_recorded(recorded: str | None, expected: Drift) -> None:
    assert drift(TEXT, recorded, None) is expected


def test_a_new_comment_is_told_from_an_edit() -> None:
    recorded = (checksum(TEXT), normalised_checksum(TEXT))
    assert drift(f"-- items\n{TEXT}", *recorded) is Drift.COSMETIC
    assert drift(TEXT.replace("int", "bigint"), *recorded) is Drift.EDITED
    assert drift(TEXT.replace("a  b", "a b"), *recorded) is Drift.EDITED


@given(st.lists(st.sampled_from([" ", "\n", "\t", "-- c\n", "/* c */", "/* /* n */ */"]), min_size=9, max_size=9))
def test_white_space_and_comments_between_tokens_do_not_count(gaps: list[str]) -> None:
    tokens = ["SELECT", "'a  b'", ",", "$$ x -- y $$", "FROM", '"T t"', "WHERE", "id", "=", "1;"]
    text = "".join(token + gap for token, gap in zip(tokens, [*gaps, ""], strict=True))
    spaced = "".join(
        token + (gap if gap.strip() == "" or gap.endswith(("*/", "\n")) else f"{gap}\n")
        for token, gap in zip(tokens, [*gaps, ""], strict=True)
    )
    assert normalised_checksum(text) == normalised_checksum(spaced) == normalised_checksum(" ".join(tokens))
