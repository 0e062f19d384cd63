"""A sample holds enough rows, and every row that another one of it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.manifest import TableFingerprint
from runbook.rules.restore_sample import choose_sample, sample_list

NAMES = [f"public.t{number}" for number in range(12)]
LISTING = """;
; Archive created at 2025-01-04 12:00:00 UTC
;     dbname: shop
3; 1259 16385 TABLE public orders postgres
3351; 0 16385 TABLE DATA public orders postgres
3352; 0 16386 TABLE DATA public orders_2 postgres
3353; 0 16390 TABLE DATA odd schema a table "x" somebody else
3354; 0 16391 MATERIALIZED VIEW DATA public totals postgres
3355; 0 0 SEQUENCE SET public counter postgres
3356; 2613 16400 BLOB METADATA - 16400..16401 postgres
3358; 0 0 COMMENT - LARGE OBJECT 16400 postgres
3359; 0 0 ACL - LARGE OBJECTS 16400..16401 postgres
3360; 0 0 COMMENT public TABLE orders postgres
3357; 0 0 BLOBS - 16400..16401 postgres
3222; 2606 16500 CONSTRAINT public orders orders_pkey postgres
"""


def tables(rows: dict[str, int]) -> dict[str, TableFingerprint]:
    return {name: TableFingerprint(rows=count, checksum="0") for name, count in rows.items()}


@given(
    rows=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1000), min_size=1),
    references=st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3)),
    percent=st.floats(0.1, 100),
    seed=st.text(max_size=5),
)
def test_a_sample_is_big_enough_complete_and_repeatable(
    rows: dict[str, int], references: dict[str, list[str]], percent: float, seed: str
) -> None:
    found = choose_sample(tables(rows), references, percent=percent, seed=seed)
    assert found
    assert found <= rows.keys()
    assert sum(rows[name] for name in found) >= sum(rows.values()) * percent / 100 - 1e-6
    assert all(target in found for name in found for target in references.get(name, ()) if target in rows)
    assert found == choose_sample(tables(rows), references, percent=percent, seed=seed)


def test_all_of_it_is_all_of_it() -> None:
    assert choose_sample(tables(dict.fromkeys(NAMES, 1)), {}, percent=100, seed="x") == set(NAMES)


def test_different_backups_are_sampled_differently() -> None:
    found = {choose_sample(tables(dict.fromkeys(NAMES, 1)), {}, percent=10, seed=str(seed)) for seed in range(20)}
    assert len(found) > 3


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        pytest.param({"public.orders"}, {"3351"}, id="not a table whose name begins the same"),
        pytest.param({"public.orders_2"}, {"3352"}, id="another"),
        pytest.param({'"odd schema"."a table ""x"""'}, {"3353"}, id="odd names"),
        pytest.param(set[str](), set[str](), id="none"),
    ],
)
def test_the_list_has_all_of_the_schema_and_the_data_of_the_sample(chosen: set[str], kept: set[str]) -> None:
    lines = sample_list(LISTING, chosen).splitlines()
    data = {line.split(";")[0] for line in lines if "TABLE DATA" in line}
    assert data == kept
    assert not [line for line in lines if "MATERIALIZED VIEW DATA" in line or "BLOB" in line or "LARGE OBJECT" in line]
    assert [line for line in lines if "SEQUENCE SET" in line]
    assert [line for line in lines if "COMMENT public TABLE orders" in line]
    assert len([line for line in lines if " TABLE public" in line or " CONSTRAINT " in line]) == 2
