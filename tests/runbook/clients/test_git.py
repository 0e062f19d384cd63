"""The application's repository, read with git itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runbook.clients.git import Repository
from runbook.errors import InvalidInputError, RejectedError
from tests.runbook.helpers import commit, git


@pytest.fixture
def sha(repository: Repository) -> str:
    """A tagged commit with a branch beside it."""
    made = commit(repository.path, {"migrations/0001_a b.sql": "SELECT 'ß';\n", "smoke.toml": "x = 1\n"}, "Add a")
    git(repository.path, "tag", "--annotate", "--message", "one", "v1.0.0")
    git(repository.path, "branch", "feature/x")
    return made


@pytest.mark.parametrize("name", ["v1.0.0", "main", "feature/x", "HEAD"])
def test_a_tag_or_branch_means_a_commit(repository: Repository, sha: str, name: str) -> None:
    assert repository.resolve(name) == sha


def test_a_sha_means_itself_in_full(repository: Repository, sha: str) -> None:
    assert repository.resolve(sha) == repository.resolve(sha[:9]) == sha


@pytest.mark.parametrize("name", ["v9", "f" * 40, "nowhere/at/all"])
def test_an_unknown_name_is_answered_with_the_newest_tags(repository: Repository, sha: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"newest tags: v1\.0\.0"):
        repository.resolve(name)


@pytest.mark.parametrize("name", ["-v", "--help", "--upload-pack=touch x", "", "a b", "main~1", "main:smoke.toml", "@"])
def test_a_name_that_could_be_something_else_is_refused(repository: Repository, name: str) -> None:
    with pytest.raises(InvalidInputError, match="git_ref"):
        repository.resolve(name)


def test_a_file_with_the_name_of_a_branch_confuses_nothing(repository: Repository, sha: str) -> None:
    made = commit(repository.path, {"main": "a file\n"})
    assert repository.resolve("main") == made
    assert repository.messages(sha, made) == ["Change files"]


def test_a_version_is_the_tag_or_the_short_sha(repository: Repository, sha: str) -> None:
    assert repository.version(sha) == "v1.0.0"
    later = commit(repository.path, {"README.md": "Changed.\n"})
    assert repository.version(later) == later[:12]
    for tag in ("v1.9.0", "v1.10.0"):
        git(repository.path, "tag", tag)
    assert repository.version(later) == "v1.10.0"


def test_only_tracked_changes_are_uncommitted(repository: Repository, sha: str) -> None:
    (repository.path / "untracked ü").write_text("x")
    assert repository.uncommitted() == []
    (repository.path / "README.md").write_text("Changed.\n")
    (repository.path / "migrations" / "0001_a b.sql").unlink()
    (repository.path / "new ü").write_text("x")
    git(repository.path, "add", "new ü")
    assert set(repository.uncommitted()) == {"README.md", "migrations/0001_a b.sql", "new ü"}


def test_files_and_their_text_come_from_the_commit_not_the_folder(repository: Repository, sha: str) -> None:
    (repository.path / "migrations" / "0001_a b.sql").write_text("changed")
    (repository.path / "migrations" / "0002_x.sql").write_text("untracked")
    assert repository.files(sha, "migrations") == ["migrations/0001_a b.sql", "migrations/README.md"]
    assert repository.text(sha, "migrations/0001_a b.sql") == "SELECT 'ß';\n"
    assert repository.files(sha, "nowhere") == []
    assert repository.text(sha, "nowhere.sql") is None


def test_a_byte_order_mark_is_no_part_of_the_text(repository: Repository) -> None:
    made = commit(repository.path, {"a.sql": b"\xef\xbb\xbfSELECT 1;\r\n"})
    assert repository.text(made, "a.sql") == "SELECT 1;\r\n"


def test_a_file_that_is_not_utf8_is_named(repository: Repository) -> None:
    made = commit(repository.path, {"a.sql": b"SELECT '\xff';"})
    with pytest.raises(RejectedError, match=r"a\.sql at [0-9a-f]{12} is not UTF-8"):
        repository.text(made, "a.sql")


def test_messages_are_those_between_two_commits(repository: Repository, sha: str) -> None:
    made = commit(repository.path, {"b": "b"}, "feat!: Change b\n\nBREAKING CHANGE: ü is gone")
    assert repository.messages(sha, made) == ["feat!: Change b\n\nBREAKING CHANGE: ü is gone"]
    assert len(repository.messages(None, made)) == 3
    assert repository.messages(made, made) == []
    with pytest.raises(RejectedError):
        repository.messages("f" * 40, made)


def test_an_export_is_the_commit_and_nothing_else(repository: Repository, sha: str, tmp_path: Path) -> None:
    (repository.path / "README.md").write_text("Changed.\n")
    (repository.path / "untracked").write_text("x")
    repository.export(sha, tmp_path / "a" / "export")
    found = {p.relative_to(tmp_path / "a" / "export").as_posix() for p in (tmp_path / "a" / "export").rglob("*.*")}
    assert found == {"README.md", "smoke.toml", "migrations/0001_a b.sql", "migrations/README.md"}
    assert (tmp_path / "a" / "export" / "README.md").read_text() == "The shop.\n"


def test_an_unknown_commit_is_not_exported(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="f" * 40):
        repository.export("f" * 40, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_bare_repository_will_do(repository: Repository, sha: str, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(repository.path), "bare.git")
    bare = Repository(tmp_path / "bare.git")
    bare.check()
    assert bare.uncommitted() == []
    assert bare.resolve("v1.0.0") == sha
    assert bare.text(sha, "smoke.toml") == "x = 1\n"
    bare.export(sha, tmp_path / "export")
    assert (tmp_path / "export" / "smoke.toml").is_file()


def test_a_folder_that_is_no_repository_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RejectedError, match=f"repository {path}"):
            Repository(path).check()


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_neither_home_nor_configuration_is_needed(repository: Repository, sha: str, home: str) -> None:
    code = (
        "import sys; from pathlib import Path; from runbook.clients.git import Repository;"
        " r = Repository(Path(sys.argv[1])); r.check(); print(r.resolve('v1.0.0'), r.uncommitted())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository.path)],
        env={"PATH": os.environ["PATH"], "HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{sha} []"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_repository_of_another_owner_is_read(repository: Repository, sha: str) -> None:
    for path in (repository.path, repository.path / ".git"):
        os.chown(path, 65534, 65534)
    assert repository.resolve("main") == sha
    assert repository.uncommitted() == []


def test_reading_leaves_the_repository_as_it_was(repository: Repository, sha: str, tmp_path: Path) -> None:
    before = git(repository.path, "status", "--porcelain"), git(repository.path, "for-each-ref")
    repository.export(sha, tmp_path / "export")
    repository.uncommitted()
    assert (git(repository.path, "status", "--porcelain"), git(repository.path, "for-each-ref")) == before


def test_many_files_are_read_at_once(repository: Repository) -> None:
    files = {f"migrations/{number:04d}_ß {number}.sql": f"SELECT {number};\n" * number for number in range(300)}
    odd = {
        "migrations/empty.sql": "",
        "migrations/no end.sql": "SELECT 'missing'",
        "bom.sql": b"\xef\xbb\xbfSELECT 1;\r\n",
    }
    made = commit(repository.path, files | odd)
    (repository.path / "migrations" / "empty.sql").write_text("changed")
    found = repository.texts(made, [*files, "migrations/nowhere at all.sql", *odd])
    assert found == files | odd | {"bom.sql": "SELECT 1;\r\n"}
    assert repository.texts(made, []) == {}


def test_of_many_files_the_one_that_is_not_utf8_is_named_with_its_line(repository: Repository) -> None:
    made = commit(repository.path, {"a.sql": "SELECT 1;", "b.sql": b"SELECT 1;\n-- ok\nSELECT '\xff';"})
    with pytest.raises(RejectedError, match=r"b\.sql:3 at [0-9a-f]{12} is not UTF-8"):
        repository.texts(made, ["a.sql", "b.sql"])


MENTIONS = {
    "src/orders.ts": "const a = 1;\nconst note = order.note;\nconst notes = 2;\n",
    "src/a b ü.ts": "// note\n",
    "src/form.txt": "first\x0cnote\x0cthird\u2028fourth\n",
    "image.png": b"\x89PNG\0note\n",
    "migrations/0001_note.sql": "ALTER TABLE orders ADD note text;\n",
}


def test_a_word_is_found_by_file_and_line_outside_of_a_directory(repository: Repository) -> None:
    made = commit(repository.path, MENTIONS)
    commit(repository.path, {"src/later.ts": "note\n"})
    expected = ["src/a b ü.ts:1", "src/form.txt:1", "src/orders.ts:2"]
    assert sorted(repository.mentions(made, "note", outside="migrations", limit=9)) == expected
    assert len(repository.mentions(made, "note", outside="migrations", limit=2)) == 2
    assert repository.mentions(made, "price", outside="migrations") == []


@pytest.mark.parametrize("word", ["-e", "--help", "a.*b", "$note", "order.note"])
def test_a_word_is_taken_as_it_stands(repository: Repository, word: str) -> None:
    made = commit(repository.path, {"src/a.ts": f"x\n {word} \n", "src/b.ts": "axxb orderXnote help\n"})
    assert repository.mentions(made, word, outside="migrations") == ["src/a.ts:2"]


def test_a_name_is_found_however_it_is_written(repository: Repository) -> None:
    """Whoever asks has a name as SQL folds it; the application writes `createdAt`."""
    made = commit(repository.path, {"src/a.ts": 'db.orders.createdAt\n"CREATEDAT"\n'})
    assert repository.mentions(made, "createdat", outside="migrations") == ["src/a.ts:1", "src/a.ts:2"]


def test_that_a_commit_cannot_be_searched_is_not_taken_for_no_mention(repository: Repository) -> None:
    with pytest.raises(RejectedError, match="f" * 40):
        repository.mentions("f" * 40, "note", outside="migrations")
