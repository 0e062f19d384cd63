"""What is unsafe in a migration: statements that destroy rows, or that break the release that still runs.

squawk's own rules are beside these (`runbook.clients.squawk`); the settings name both by their rule.
Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes"); squawk, "Rules".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from runbook.errors import InvalidInputError
from runbook.rules.sql import Statement


class Severity(StrEnum):
    """What a finding of a lint rule does: ERROR refuses, WARNING is shown, OFF is not looked for."""

    ERROR = "error"
    WARNING = "warning"
    OFF = "off"


@dataclass(frozen=True)
class Finding:
    """A line of a migration that is unsafe, by which rule, and a safer form. `subject` is the name it takes away."""

    path: str
    line: int
    rule: str
    message: str
    safer: str = ""
    severity: Severity = Severity.WARNING
    subject: str = ""


@dataclass(frozen=True)
class Catalogue:
    """What is known of the live database, names in upper case and without their schema.

    `columns` holds types by table and column, `with_rows` the tables that have rows.
    """

    columns: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    with_rows: Collection[str] = ()


SAFER = {
    "drop-table": "Stop using the table in one release, rename or archive it, and drop it in a later release.",
    "drop-schema": "Move what is still needed, keep a backup, and drop the empty schema in a later release.",
    "drop-database": "Never drop a database in a migration.",
    "drop-owned": "Drop the objects one by one, by name.",
    "drop-column": "Stop reading and writing the column in one release and drop it in a later one.",
    "truncate": "DELETE in batches with a WHERE, after a copy of the rows.",
    "delete-without-where": "Name the rows in a WHERE and delete them in batches.",
    "update-without-where": "Name the rows in a WHERE and update them in batches.",
    "narrowing-type": "Add a column of the new type, fill it in batches, switch over, and drop the old one later.",
    "not-null-on-existing-rows": "ADD CONSTRAINT ... CHECK (... IS NOT NULL) NOT VALID, then VALIDATE, then SET NOT "
    "NULL; a new column needs a DEFAULT.",
    "rename": "Add the new name beside the old one (a column, or a view), switch over, and remove the old one later.",
    "rename-in-use": "Release a version that uses the new name first, or keep both names for one release.",
    "drop-in-use": "Release a version that does not use it first; then drop it.",
    "executable-down-part": "Move what undoes the migration into <name>_ROLLBACK.sql: here it runs, too.",
}
"""The project's own rules, each with its safer form."""

_SQUAWK = frozenset(
    {
        "require-concurrent-index-creation", "require-concurrent-index-deletion", "constraint-missing-not-valid",
        "adding-field-with-default", "adding-foreign-key-constraint", "changing-column-type",
        "adding-not-nullable-field", "adding-serial-primary-key-field", "renaming-column", "renaming-table",
        "disallowed-unique-constraint", "ban-drop-database", "prefer-bigint-over-int", "prefer-bigint-over-smallint",
        "prefer-identity", "prefer-repack", "prefer-robust-stmts", "prefer-text-field", "prefer-timestamp-tz",
        "ban-char-field", "ban-drop-column", "ban-drop-table", "ban-drop-not-null", "transaction-nesting",
        "adding-required-field", "ban-concurrent-index-creation-in-transaction", "unused-ignore",
        "ban-create-domain-with-constraint", "ban-alter-domain-with-add-constraint", "ban-truncate-cascade",
        "require-timeout-settings", "ban-uncommitted-transaction", "require-enum-value-ordering",
        "identifier-too-long", "require-concurrent-partition-detach", "require-concurrent-reindex",
        "require-lock-timeout", "require-statement-timeout", "syntax-error",
    }
)  # fmt: skip
# Time-outs are set for every file, transactions are looked after here, and style is the team's own.
_OFF = frozenset(
    {
        "require-timeout-settings", "require-lock-timeout", "require-statement-timeout", "prefer-bigint-over-int",
        "prefer-bigint-over-smallint", "prefer-identity", "prefer-robust-stmts", "prefer-text-field",
        "prefer-timestamp-tz", "ban-char-field", "transaction-nesting", "unused-ignore",
        "ban-concurrent-index-creation-in-transaction", "ban-uncommitted-transaction",
    }
)  # fmt: skip
TAKES_AWAY = frozenset(
    {"drop-table", "drop-schema", "drop-column", "rename", "narrowing-type", "drop-in-use", "rename-in-use"}
)
"""The rules whose findings break others that read the database, whether or not rows are lost."""
_ERRORS = frozenset({"drop-database", "executable-down-part"})
# The first says more than the others of the same line.
_SAME = {
    "drop-table": {"ban-drop-table"},
    "drop-column": {"ban-drop-column"},
    "drop-database": {"ban-drop-database"},
    "rename": {"renaming-column", "renaming-table"},
    "narrowing-type": {"changing-column-type"},
    "not-null-on-existing-rows": {"adding-required-field", "adding-not-nullable-field"},
    "truncate": {"ban-truncate-cascade"},
    "drop-in-use": {"drop-table", "drop-column", "ban-drop-table", "ban-drop-column"},
    "rename-in-use": {"rename", "renaming-column", "renaming-table"},
}


def check_rules(lint: Mapping[str, Severity]) -> None:
    """Raise `InvalidInputError` when the settings name a rule that there is not."""
    known = [*SAFER, *sorted(_SQUAWK)]
    for rule in lint:
        if rule not in known:
            close = difflib.get_close_matches(rule, known, n=3) or known
            raise InvalidInputError("migrations.lint", rule, ", ".join(close), "Mend the name in the settings.")


def settled(findings: Sequence[Finding], lint: Mapping[str, Severity]) -> list[Finding]:
    """Return findings with the severity that the settings give them, without those that are off, by file and line."""
    ours = {(finding.path, finding.line, same) for finding in findings for same in _SAME.get(finding.rule, ())}
    kept = [
        replace(finding, severity=lint.get(finding.rule, _default(finding.rule)))
        for finding in findings
        if (finding.path, finding.line, finding.rule) not in ours
    ]
    shown = {finding for finding in kept if finding.severity is not Severity.OFF}
    return sorted(shown, key=lambda finding: (finding.path, finding.line, finding.rule))


def destructive(path: str, text: str, script: Sequence[Statement], catalogue: Catalogue) -> list[Finding]:
    """Return what in one file destroys data or breaks the release that still runs.

    What is done to a table that the same file creates is no finding. What a DO block or a function does is inside a
    string and is not seen; a WHERE that is always true is not recognised either.

    Args:
        path: the file.
        text: what is in it.
        script: its statements.
        catalogue: what is known of the live database.

    Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes").
    """
    created: set[str] = set()
    found: list[Finding] = []
    for statement in script:
        tokens = _tokens(statement)
        if match := _CREATE_TABLE.match(tokens):
            created.add(_last(match["name"]))
        found += [
            Finding(path, statement.line, rule, message, SAFER[rule], subject=subject)
            for rule, message, subject in _breaking(tokens, catalogue, created)
        ]
    return [*found, *_down_part(path, text, script)]


def _default(rule: str) -> Severity:
    if rule in _ERRORS:
        return Severity.ERROR
    return Severity.OFF if rule in _OFF else Severity.WARNING


_TOKEN = re.compile(r"""(?P<name>"(?:[^"]|"")*+")|''|[^\W\d][\w$]*|[0-9]+|\S""")
_NAME = r"\S+(?: \. \S+)*"
_CREATE_TABLE = re.compile(rf"CREATE (?:UNLOGGED |FOREIGN )?TABLE (?:IF NOT EXISTS )?(?P<name>{_NAME})")
_DROP = re.compile(r"DROP (?:FOREIGN )?(?P<kind>TABLE|SCHEMA|DATABASE|OWNED)(?: BY)? (?:IF EXISTS )?(?P<names>.+)")
_TRUNCATE = re.compile(rf"TRUNCATE (?:TABLE )?(?:ONLY )?(?P<name>{_NAME})")
_ALTER = re.compile(
    r"ALTER (?P<kind>(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW|TYPE|SCHEMA|SEQUENCE|DOMAIN|FUNCTION|PROCEDURE|ROUTINE)"
    rf" (?:IF EXISTS )?(?:ONLY )?(?P<name>{_NAME})(?: \*)?(?: \( (?P<arguments>[^()]*)\))? (?P<actions>.+)"
)
_DROP_COLUMN = re.compile(r"DROP (?!CONSTRAINT\b|NOT NULL\b|DEFAULT\b)(?:COLUMN )?(?:IF EXISTS )?(?P<column>\S+)")
_TYPE = re.compile(
    r"ALTER (?:COLUMN |ATTRIBUTE )?(?P<column>\S+) (?:SET DATA )?TYPE (?P<type>.+?)(?P<using> USING .*)?$"
)
_NOT_NULL = re.compile(r"ALTER (?:COLUMN )?(?P<column>\S+) SET NOT NULL\b")
_ADD_REQUIRED = re.compile(
    r"ADD (?:COLUMN )?(?:IF NOT EXISTS )?(?P<column>\S+) (?=.*\bNOT NULL\b)(?!.*\b(?:DEFAULT|GENERATED)\b)"
)
_RENAME_COLUMN = re.compile(r"RENAME (?:COLUMN |ATTRIBUTE )?(?!CONSTRAINT\b|TO\b|VALUE\b)(?P<column>\S+) TO\b")
_MAIN_VERBS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"})
_DOWN_MARK = re.compile(
    r"^[ \t]*--[ \t=*#-]*(?:@|\+goose[ \t]+|\+migrate[ \t]+|migrate:|//@?)?[ \t]*(?:DOWN|UNDO|ROLLBACK|REVERT)\b"
    r"(?:[ \t]+(?:MIGRATION|SCRIPT|PART|SECTION|SQL))?[ \t:=*#-]*$",
    re.IGNORECASE | re.MULTILINE,
)


def _tokens(statement: Statement) -> str:
    """Return a statement with one space between tokens; a quoted name that is one word loses its quotes."""

    def plain(match: re.Match[str]) -> str:
        inner = (match["name"] or "")[1:-1]
        return (inner if re.fullmatch(r"[\w$]+", inner) else '""') if match["name"] else match[0]

    return " ".join(plain(match) for match in _TOKEN.finditer(statement.bare))


def _last(name: str) -> str:
    return name.split(" . ")[-1]


def _breaking(tokens: str, catalogue: Catalogue, created: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield rule, message and subject for each breaking thing in a statement."""
    if drop := _DROP.match(tokens):
        kind = drop["kind"].lower()
        names = [_last(name) for name in re.sub(r" (?:CASCADE|RESTRICT)$", "", drop["names"]).split(" , ")]
        for name in names:
            if kind != "table" or name not in created:
                yield f"drop-{kind}", f"drops {kind} {name.lower()}", name if kind == "table" else ""
    elif truncate := _TRUNCATE.match(tokens):
        if _last(truncate["name"]) not in created:
            yield "truncate", f"empties {_last(truncate['name']).lower()}", ""
    elif alter := _ALTER.match(tokens):
        table = _last(alter["name"])
        if table not in created:
            for action in _actions(alter["actions"]):
                yield from _action(alter["kind"], table, action, catalogue)
    else:
        for rule in dict.fromkeys(_without_where(tokens)):
            yield rule, "touches every row", ""


def _action(kind: str, name: str, action: str, catalogue: Catalogue) -> Iterator[tuple[str, str, str]]:
    table = name.lower()
    if kind.endswith("TABLE") and (drop := _DROP_COLUMN.match(action)):
        yield "drop-column", f"drops column {drop['column'].lower()} of {table}", drop["column"]
    elif change := _TYPE.match(action):
        old = catalogue.columns.get((name, change["column"]))
        if old is None or not is_widening(old, change["type"]):
            was = f"from {old} " if old else ""
            yield (
                "narrowing-type",
                f"changes {table}.{change['column'].lower()} {was}to {change['type'].lower()}, which not every value "
                "may survive",
                "",
            )
    elif (required := _NOT_NULL.match(action) or _ADD_REQUIRED.match(action)) and kind.endswith("TABLE"):
        if name in catalogue.with_rows:
            yield "not-null-on-existing-rows", f"{table}.{required['column'].lower()} is required; {table} has rows", ""
    elif column := _RENAME_COLUMN.match(action):
        yield "rename", f"renames {column['column'].lower()} of {table}", column["column"]
    elif action.startswith("RENAME TO"):
        yield "rename", f"renames {table}", name


_ALIASES = {
    "VARCHAR": "CHARACTER VARYING", "CHAR": "CHARACTER", "INT": "INTEGER", "INT4": "INTEGER", "INT8": "BIGINT",
    "INT2": "SMALLINT", "DECIMAL": "NUMERIC", "BOOL": "BOOLEAN", "FLOAT8": "DOUBLE PRECISION", "FLOAT4": "REAL",
    "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "TIMESTAMP": "TIMESTAMP WITHOUT TIME ZONE",
}  # fmt: skip
_WIDER = {
    "SMALLINT": ("INTEGER", "BIGINT", "NUMERIC"),
    "INTEGER": ("BIGINT", "NUMERIC"),
    "BIGINT": ("NUMERIC",),
    "REAL": ("DOUBLE PRECISION",),
    "CHARACTER VARYING": ("TEXT",),
    "CHARACTER": ("TEXT",),
    "DATE": ("TIMESTAMP WITHOUT TIME ZONE",),
}


def is_widening(old: str, new: str) -> bool:
    """Return whether every value of one type is a value of another; types as `format_type` or a person writes them."""
    (old_base, old_limits), (new_base, new_limits) = _type(old), _type(new)
    if old_base != new_base:
        return new_base in _WIDER.get(old_base, ()) and not new_limits
    if not new_limits or old_limits == new_limits:
        return True
    if not old_limits or len(old_limits) != len(new_limits):
        return False
    return new_limits[0] >= old_limits[0] and new_limits[1:] == old_limits[1:]


def _type(text: str) -> tuple[str, tuple[int, ...]]:
    upper = " ".join(text.upper().replace("(", " ( ").replace(")", " ) ").replace(",", " ").split())
    limits = re.search(r"\( ([\d ]+)\)", upper)
    base = " ".join(re.sub(r"\( [\d ]+\)", "", upper).split())
    base = re.sub(r"^PG_CATALOG \. ", "", base)
    return _ALIASES.get(base, base), tuple(int(part) for part in limits[1].split()) if limits else ()


def _actions(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    actions, depth = [""], 0
    for word in text.split(" "):
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            actions.append("")
        else:
            actions[-1] = f"{actions[-1]} {word}".lstrip()
    return actions


def _without_where(tokens: str) -> Iterator[str]:
    """Yield for each DELETE or UPDATE, also inside WITH, that has no WHERE of its own."""
    levels: list[list[str]] = [[]]
    for word in [*tokens.split(" "), ")"]:
        if word == "(":
            levels.append([])
        elif word == ")":
            yield from _unbounded(levels.pop())
            levels = levels or [[]]
        else:
            levels[-1].append(word)


def _unbounded(words: list[str]) -> Iterator[str]:
    if not words or words[0] not in {"WITH", "DELETE", "UPDATE"} or "WHERE" in words:
        return
    verb = next((word for word in words if word in _MAIN_VERBS), "")
    if (verb == "DELETE" and "FROM" in words) or (verb == "UPDATE" and "SET" in words):
        yield f"{verb.lower()}-without-where"


def _down_part(path: str, text: str, script: Sequence[Statement]) -> Iterator[Finding]:
    """Yield when a comment announces the part that undoes the migration, and statements follow it."""
    ends = [statement.start + len(statement.text) for statement in script]
    for before, after in zip(ends, script[1:], strict=False):
        if mark := _DOWN_MARK.search(text, before, after.start):
            rule, line = "executable-down-part", text.count("\n", 0, mark.end()) + 1
            message = "what follows this line undoes the file, and runs with it: it applies and leaves nothing"
            yield Finding(path, line, rule, message, SAFER[rule])
            return
