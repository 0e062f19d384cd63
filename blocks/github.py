"""A repository at GitHub as a form: evidence for the checklist, and where deployments are shown."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.naming import name_of
from runbook.clients.github import API_URL, IGNORED_CHECKS, GitHub, GitHubSettings

_LOGO = "https://github.githubassets.com/images/modules/logos_page/GitHub-Mark.png"


class GitHubRepository(Block):
    """The repository that releases of an environment are made from."""

    _block_type_name = "Runbook GitHub Repository"
    _block_type_slug = "runbook-github-repository"
    _description = (
        "Asks GitHub whether CI and reviewers have passed a commit, and shows every deploy and rollback there."
    )
    _logo_url = HttpUrl(_LOGO)
    _documentation_url = HttpUrl("https://docs.github.com/en/rest/deployments/deployments")

    owner: str = Field(description="User or organization that the repository belongs to, such as mantisnxt.")
    repository: str = Field(description="Name of the repository, without its owner.")
    token: SecretStr = Field(
        description="Fine-grained token for this repository with the permissions Deployments: read and write; Checks, "
        "Commit statuses, Contents, Pull requests and Actions: read."
    )
    branch: str = Field(
        default="main", description="Branch that releases come from: its rules say which checks and reviews they need."
    )
    ignored_checks: tuple[str, ...] = Field(
        default=IGNORED_CHECKS,
        description="Names of checks that do not count, above all the job that starts the deploy: it runs for the same "
        "commit, and cannot end before it.",
    )
    api_url: str = Field(default=API_URL, description="Where the API is; of an Enterprise Server https://HOST/api/v3.")

    def get_client(self) -> GitHub:
        """Return the client of this repository; `InvalidInputError` when a field cannot be right."""
        settings = GitHubSettings(
            self.owner, self.repository, self.branch, self.api_url, self.ignored_checks, name_of(self)
        )
        return GitHub(settings, self.token)

    def check(self, environment: str = "production") -> str:
        """Return what was found there, after reading all that the runbook reads.

        Raises:
            ServiceError: in words a person can act on: which block, and which permission is missing.
        """
        return self.get_client().check(environment)
