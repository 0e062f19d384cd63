r"""Where PostgreSQL statements begin and end, and which of them may not share a transaction.

The text is read as the server reads it: `--` and nested `/* */` comments, '' and E'' strings, dollar quotes,
quoted identifiers. Around that it follows psql: meta-commands, data after `COPY ... FROM stdin`, and `;` ends a
statement only outside parentheses and outside the body of a `BEGIN ATOMIC` function.

Source: PostgreSQL manual, "Lexical Structure" and "psql"; the rules of PostgreSQL's scanner for psql.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from runbook.errors import InvalidInputError

_LETTER = r"A-Za-z_\x80-\U0010ffff"
_NAME = rf"[{_LETTER}][{_LETTER}0-9$]*"
_TOKEN = re.compile(
    rf"""
      (?P<blank>     [ \t\n\r\f\v]+ | --[^\n\r]* )
    | (?P<comment>   /\* )
    | (?P<escaped>   [eE]' )
    | (?P<quoted>    (?: [bBnNxX] | [uU]& )?' )
    | (?P<name>      (?: [uU]& )?" )
    | (?P<dollar>    \$(?: [{_LETTER}][{_LETTER}0-9]* )?\$ )
    | (?P<word>      {_NAME} )
    | (?P<number>    \$?[0-9]+(?: {_NAME} )? )
    | (?P<backslash> \\ )
    | (?P<other>     . )
    """,
    re.VERBOSE | re.DOTALL,
)
_REST = {
    "quoted": re.compile(r"(?:[^']|'')*+'"),
    "escaped": re.compile(r"(?:[^'\\]|''|\\.)*+'", re.DOTALL),
    "name": re.compile(r'(?:[^"]|"")*+"'),
}
# 'a' <at least one line end> 'b' is one string, and the second part follows the rules of the first
_CONTINUED = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*+'")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_WHAT = {"quoted": "string", "escaped": "string", "name": "quoted identifier", "dollar": "dollar-quoted string"}
_UPPER = str.maketrans({chr(code): chr(code - 32) for code in range(ord("a"), ord("z") + 1)})

_META_NAME = re.compile(r"\\[^\s\\]*")
_META_ARGUMENTS = re.compile(r"""(?:'(?:[^'\\\n]|\\.|'')*'|"[^"\n]*"|`[^`\n]*`|[^\\\n])*+""")
_META_WHOLE_LINE = frozenset({r"\!", r"\copy", r"\ef", r"\ev", r"\h", r"\help", r"\sf", r"\sv"})
_META_SENDS = (r"\g", r"\crosstabview", r"\watch")
# What these do stays inside psql; every other one can change the session, the connection, files or the text that runs.
_META_HARMLESS = re.compile(
    r"\\(?:echo|qecho|warn|timing|pset|encoding|a|C|f|H|t|T|x|if|elif|else|endif|set|unset|restrict|unrestrict"
    r"|conninfo|copyright|errverbose|d\S*|l\+?|z|sf\+?|sv\+?|h|\?)(?: [^`]*)?"
)
_META_SENDS_HARMLESS = re.compile(r"\\(?:g|gx|gdesc|crosstabview)")
_META_SETS_PSQL = re.compile(
    r"\\set (?:AUTOCOMMIT|ON_ERROR_STOP)\b(?! (?:on|1|true|yes)$)"
    r"|\\set (?:ON_ERROR_ROLLBACK|SINGLELINE|SINGLESTEP)\b(?! (?:off|0|false|no)$)"
    r"|\\unset (?:AUTOCOMMIT|ON_ERROR_STOP)\b",
    re.IGNORECASE,
)

_SHAPE_TOKEN = re.compile(rf"""(?P<name>"(?:[^"]|"")*+")|''|{_NAME}|[0-9]+|\S""")
_OBJECT = r"\S+(?: \. \S+)*"
_COPY_IN = re.compile(rf"COPY (?:BINARY )?{_OBJECT}(?: \( [^()]* \))? FROM STDIN\b")
_META_COPY_IN = re.compile(r"\\copy\s.*\bfrom\s+stdin\b", re.IGNORECASE)
_LINE_REST = re.compile(r"[ \t\f\v\r]*(?:--[^\n]*)?(?:\n|\Z)")
_DATA_END = re.compile(r"^\\\.\r?$|\Z", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    r"""One statement of a script.

    `text` runs from its first token to its `;` (to the end of its data for `COPY ... FROM stdin`). `line` is the
    line of the first token, from 1. `bare` is the statement in upper case (A-Z only) without its `;`, comments
    and data, every string and dollar-quoted body replaced by `''`, white space collapsed. A psql meta-command is
    a statement too; its `bare` begins with a backslash and keeps its case, which psql distinguishes. `start` is the
    position of the first token in the script, `sent_by` the meta-command that ends the statement instead of a `;`.
    """

    text: str
    line: int
    bare: str
    start: int = field(default=0, compare=False)
    sent_by: str = field(default="", compare=False)

    @property
    def shape(self) -> str:
        r"""`bare` with one space between tokens and every quoted identifier replaced by `""`, for patterns."""
        return " ".join('""' if match["name"] else match[0] for match in _SHAPE_TOKEN.finditer(self.bare))


@dataclass(frozen=True)
class _Token:
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    bare: str
    sent_by: str = ""


@dataclass
class _Reading:
    """The statement being read: what was seen of it and what is still open."""

    start: int = 0
    end: int = 0
    pieces: list[str] = field(default_factory=list[str])
    words: list[str] = field(default_factory=list[str])
    gap: bool = False
    parentheses: int = 0
    blocks: int = 0

    @property
    def is_open(self) -> bool:
        return self.parentheses > 0 or self.blocks > 0

    def add(self, token: _Token, raw: str) -> None:
        """Take one token that is neither blank nor a comment."""
        if not self.pieces:
            self.start = token.start
        elif self.gap:
            self.pieces.append(" ")
        self.gap = False
        self.end = token.end
        self.pieces.append(_bare_piece(token.kind, raw))
        if raw == "(":
            self.parentheses += 1
        elif raw == ")":
            self.parentheses = max(0, self.parentheses - 1)
        elif token.kind == "word":
            self._count_blocks(self.pieces[-1])

    def _count_blocks(self, word: str) -> None:
        """Follow BEGIN, CASE and END the way psql does, in CREATE FUNCTION and CREATE PROCEDURE only."""
        if len(self.words) < 4:
            self.words.append(word)
        head = self.words[3:4] if self.words[1:3] == ["OR", "REPLACE"] else self.words[1:2]
        if self.words[0] != "CREATE" or head not in (["FUNCTION"], ["PROCEDURE"]) or self.parentheses:
            return
        if word == "BEGIN" or (word == "CASE" and self.blocks):
            self.blocks += 1
        elif word == "END":
            self.blocks = max(0, self.blocks - 1)

    def close(self, end: int, sent_by: str = "") -> _Span:
        return _Span(self.start, end, "".join(self.pieces), sent_by)


def statements(text: str) -> list[Statement]:
    """Split a script into its statements; nothing but blanks, comments and lone `;` is left out.

    Raises:
        InvalidInputError: a string, quoted identifier, comment, dollar quote, parenthesis, function body or block of
            COPY data is never closed (the line where it begins is named), a NUL character, or a psql meta-command
            in the middle of a statement.

    Source: runbook, "Stage 4: Database Migration"; PostgreSQL manual, "Lexical Structure".
    """
    if "\0" in text:
        raise _invalid(text, text.index("\0"), "text without NUL characters")
    found: list[Statement] = []
    at, counted, line = int(text.startswith("\ufeff")), 0, 1
    while (span := _scan(text, at)) is not None:
        line += text.count("\n", counted, span.start)
        counted, at = span.start, span.end
        found.append(Statement(text[span.start : span.end], line, span.bare, span.start, span.sent_by))
    return found


def _scan(text: str, at: int) -> _Span | None:
    """Return the next statement from `at`, or None when there is none."""
    reading = _Reading()
    while at < len(text):
        token = _next_token(text, at)
        at = token.end
        if token.kind in {"blank", "comment"}:
            reading.gap = True
        elif token.kind == "backslash" and (span := _at_backslash(text, token, reading)) is not None:
            return span
        elif token.kind == "backslash":
            at += 1  # `\;` without a statement before it, or `\:`
        elif text[token.start] == ";" and not reading.is_open:
            if reading.pieces:
                return _with_data(text, reading.close(at))
        else:
            reading.add(token, text[token.start : at])
    if reading.is_open:
        raise _invalid(text, reading.start, "a closing ')', or END for BEGIN, in the statement that begins there")
    return reading.close(reading.end) if reading.pieces else None


def _next_token(text: str, at: int) -> _Token:
    match = _TOKEN.match(text, at)
    assert match is not None  # noqa: S101 - the last alternative takes any character
    kind, end = str(match.lastgroup), match.end()
    if kind == "comment":
        end = _comment_end(text, at)
    elif kind == "dollar":
        body_end = text.find(match[0], end)
        if body_end < 0:
            raise _invalid(text, at, f"the dollar-quoted string that begins there closed by {match[0]}")
        end = body_end + len(match[0])
    elif kind in _REST:
        end = _quote_end(text, at, end, kind)
    return _Token(kind, at, end)


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    raise _invalid(text, start, "the comment that begins there closed by */")


def _quote_end(text: str, start: int, opened: int, kind: str) -> int:
    while (rest := _REST[kind].match(text, opened)) is not None:
        continued = None if kind == "name" else _CONTINUED.match(text, rest.end())
        if continued is None:
            return rest.end()
        opened = continued.end()
    raise _invalid(text, start, f"the {_WHAT[kind]} that begins there closed")


def _bare_piece(kind: str, raw: str) -> str:
    if kind in {"quoted", "escaped", "dollar"}:
        return "''"
    return (raw[raw.index('"') :] if kind == "name" else raw).translate(_UPPER)


def _at_backslash(text: str, token: _Token, reading: _Reading) -> _Span | None:
    r"""Return the statement that a backslash begins or ends; None for `\:` and for a `\;` that ends nothing."""
    at = token.start
    if text.startswith(("\\;", "\\:"), at):
        ends = text[at + 1] == ";" and reading.pieces and not reading.is_open
        return reading.close(at + 2) if ends else None
    end = _meta_end(text, at)
    if not reading.pieces:
        meta = text[at:end].rstrip(" \t\r\f\v")
        return _with_data(text, _Span(at, at + len(meta), " ".join(meta.split())))
    if reading.is_open or not text.startswith(_META_SENDS, at):
        raise _invalid(text, at, "a psql meta-command between statements, not inside one")
    return _with_data(text, reading.close(end, " ".join(text[at:end].split())))


def _meta_end(text: str, start: int) -> int:
    name = _META_NAME.match(text, start)
    assert name is not None  # noqa: S101 - called at a backslash only
    if name[0] in _META_WHOLE_LINE:
        line_end = text.find("\n", start)
        return len(text) if line_end < 0 else line_end
    arguments = _META_ARGUMENTS.match(text, name.end())
    end = name.end() if arguments is None else arguments.end()
    return end + 2 if text.startswith("\\\\", end) else end


def _with_data(text: str, span: _Span) -> _Span:
    r"""Return `span` with the lines of data up to `\.` when it is a COPY from the script itself."""
    if not has_data(Statement("", 0, span.bare)):
        return span
    rest = _LINE_REST.match(text, span.end)
    if rest is None:
        raise _invalid(text, span.end, "nothing else on the line of a COPY ... FROM stdin")
    data_end = _DATA_END.search(text, rest.end())
    assert data_end is not None  # noqa: S101 - psql, too, takes the end of the script for the end of the data
    return _Span(span.start, min(data_end.start() + 2, len(text)), span.bare)


def _invalid(text: str, at: int, allowed: str) -> InvalidInputError:
    line = text.count("\n", 0, at) + 1
    return InvalidInputError("sql", f"line {line}", allowed, "Correct the file at that line.")


_CANNOT = "cannot run inside a transaction block"
_OWN_TRANSACTION = tuple(
    (re.compile(pattern), f"{kind} {why}")
    for pattern, kind, why in (
        (r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY\b", "CREATE INDEX CONCURRENTLY", _CANNOT),
        (r"DROP INDEX CONCURRENTLY\b", "DROP INDEX CONCURRENTLY", _CANNOT),
        (
            r"REINDEX (?:\( [^()]*\) )?(?:INDEX|TABLE|SCHEMA|DATABASE|SYSTEM) CONCURRENTLY\b",
            "REINDEX CONCURRENTLY",
            _CANNOT,
        ),
        (r"REINDEX \( (?:[^()]* )?CONCURRENTLY (?!FALSE\b|OFF\b|0 )", "REINDEX CONCURRENTLY", _CANNOT),
        (r"REINDEX (?:\( [^()]*\) )?(?:SCHEMA|DATABASE|SYSTEM)\b", "REINDEX of a schema or database", _CANNOT),
        (r"VACUUM\b", "VACUUM", _CANNOT),
        (r"(?:CREATE|DROP) DATABASE\b", "CREATE or DROP DATABASE", _CANNOT),
        (r"ALTER DATABASE \S+ SET TABLESPACE\b", "ALTER DATABASE SET TABLESPACE", _CANNOT),
        (r"(?:CREATE|DROP) TABLESPACE\b", "CREATE or DROP TABLESPACE", _CANNOT),
        (r"ALTER SYSTEM\b", "ALTER SYSTEM", _CANNOT),
        (rf"ALTER TABLE .*\bDETACH PARTITION {_OBJECT} CONCURRENTLY\b", "DETACH PARTITION CONCURRENTLY", _CANNOT),
        (r"CREATE SUBSCRIPTION (?!.*\b(?:CREATE_SLOT|CONNECT) = (?:FALSE|OFF|0)\b)", "CREATE SUBSCRIPTION", _CANNOT),
        (r"DROP SUBSCRIPTION\b", "DROP SUBSCRIPTION", _CANNOT),
        (
            r"ALTER SUBSCRIPTION \S+ (?:REFRESH|(?:SET|ADD|DROP) PUBLICATION\b(?!.*\bREFRESH = (?:FALSE|OFF|0)\b))",
            "ALTER SUBSCRIPTION with a refresh",
            _CANNOT,
        ),
        (r"CLUSTER(?: VERBOSE| \( [^()]*\))?$", "CLUSTER without a table", _CANNOT),
        (r"DISCARD ALL$", "DISCARD ALL", _CANNOT),
        (r"CALL\b", "CALL:", "a procedure may end transactions"),
        (
            rf"ALTER TYPE {_OBJECT} ADD VALUE\b",
            "ALTER TYPE ADD VALUE:",
            "the value cannot be used in the same transaction",
        ),
    )
)
_CONTROLS_TRANSACTION = re.compile(
    r"(?:BEGIN|COMMIT|END|ABORT|START TRANSACTION|PREPARE TRANSACTION|SET TRANSACTION)\b"
    r"|ROLLBACK\b(?!(?: WORK| TRANSACTION)? TO\b)"
)
_BODY_COMMITS = re.compile(r"\b(?:COMMIT|ROLLBACK|CALL)\b", re.IGNORECASE)
_NOT_CODE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)


def needs_own_transaction(statement: Statement) -> str | None:
    """Return why the statement cannot share a transaction with others, or None when it can.

    REFRESH MATERIALIZED VIEW CONCURRENTLY can. A DO whose body has a COMMIT, ROLLBACK or CALL may end transactions,
    and so may every CALL. Not seen in the text, so not found: CLUSTER and REINDEX of a partitioned table.

    Source: PostgreSQL manual, the Notes of each command; runbook, "Stage 4: Database Migration".
    """
    shape = statement.shape
    if re.match(r"DO\b", shape) and _BODY_COMMITS.search(_NOT_CODE.sub(" ", statement.text)):
        return "DO with a COMMIT, ROLLBACK or CALL may end transactions"
    return next((reason for pattern, reason in _OWN_TRANSACTION if pattern.match(shape)), None)


def controls_transaction(statement: Statement) -> bool:
    """Return whether the statement begins, ends or sets a transaction; SAVEPOINT and ROLLBACK TO do not.

    Source: PostgreSQL manual, "SQL Commands"; runbook, "Stage 4: Database Migration".
    """
    return _CONTROLS_TRANSACTION.match(statement.shape) is not None


def has_data(statement: Statement) -> bool:
    """Return whether the lines after the statement are data for it: `COPY` or psql's copy from `stdin`.

    Source: PostgreSQL manual, "COPY" and "psql".
    """
    bare = statement.bare
    is_copy = bare.startswith("COPY") and _COPY_IN.match(statement.shape) is not None
    return is_copy or _META_COPY_IN.match(bare) is not None


def refused_meta_command(statement: Statement) -> str | None:
    r"""Return the psql meta-command in a statement that must not run, or None.

    Harmless are those whose effect stays inside psql: output, conditions, ordinary variables, `\copy ... from stdin`
    with its data in the script. Refused are those that run a shell, read or write files, connect elsewhere, run what
    a query returns, or switch off that psql stops at the first error.

    Source: PostgreSQL manual, "psql", "Meta-Commands" and "Variables".
    """
    if statement.sent_by:
        return None if _META_SENDS_HARMLESS.fullmatch(statement.sent_by) else statement.sent_by.split(" ", 1)[0]
    if not statement.bare.startswith("\\") or _META_COPY_IN.match(statement.bare):
        return None
    if _META_HARMLESS.fullmatch(statement.bare) and not _META_SETS_PSQL.match(statement.bare):
        return None
    words = statement.bare.split(" ")
    return " ".join(words[: 2 if words[0] in {"\\set", "\\unset"} else 1])


def without_literals(text: str) -> str:
    """Return SQL with each string and number replaced by `?` and white space collapsed, to be shown to people.

    Source: runbook, "Stage 4: Database Migration"; the texts of `pg_stat_statements` look the same.
    """
    pieces: list[str] = []
    at = 0
    try:
        while at < len(text):
            token = _next_token(text, at)
            at = token.end
            raw = text[token.start : at]
            if token.kind in {"blank", "comment"}:
                pieces.append(" ")
            else:
                pieces.append("?" if token.kind in {"quoted", "escaped", "dollar", "number"} else raw)
    except InvalidInputError:  # cut off in the middle of a string, as long queries are
        pieces.append("?")
    return " ".join("".join(pieces).split())


def essence(text: str) -> str:
    """Return a script without comments and without white space outside of strings, one token a line.

    Raises:
        InvalidInputError: something is never closed.
    """
    pieces: list[str] = []
    at = int(text.startswith("\ufeff"))
    while at < len(text):
        token = _next_token(text, at)
        at = token.end
        if token.kind not in {"blank", "comment"}:
            pieces.append(text[token.start : at])
    return "\n".join(pieces)
