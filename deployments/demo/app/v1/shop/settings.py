"""What the service is told by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    port: int
    database_url: str
    version: str
    release_sha: str
    nextauth_secret: str
    nextauth_url: str
    jwt_secret: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        return cls(
            port=int(environment.get("PORT", "8000")),
            database_url=environment.get("DATABASE_URL", ""),
            version=environment.get("APP_VERSION", "unknown"),
            release_sha=environment.get("RELEASE_SHA", "unknown"),
            nextauth_secret=environment.get("NEXTAUTH_SECRET", ""),
            nextauth_url=environment.get("NEXTAUTH_URL", ""),
            jwt_secret=environment.get("JWT_SECRET", ""),
        )

    def authentication_problems(self) -> list[str]:
        """Return what is wrong with the secrets, by name; never a value."""
        problems = []
        if len(self.nextauth_secret) < 32:
            problems.append("NEXTAUTH_SECRET is shorter than 32 characters")
        if not self.nextauth_url:
            problems.append("NEXTAUTH_URL is not set")
        if not self.jwt_secret:
            problems.append("JWT_SECRET is not set")
        return problems
