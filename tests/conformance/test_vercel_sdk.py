"""Vercel's SDK, made as strict as the document that it was generated from, pointed at the emulator."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deviations import unexpected
from tests.conformance.installed import Calls, call_npm
from tests.emulators.recording import record_of
from tests.emulators.vercel import PROJECT, TEAM, VercelEmulator, vercel_emulator

pytestmark = pytest.mark.conformance

TOKEN = "vcp_never_to_be_seen_0123456789"
A, B = "a" * 40, "b" * 40
OF_TEAM = {"teamId": TEAM}


@pytest.fixture
def vercel() -> Generator[VercelEmulator]:
    """Serve a project; what was said has to be as documented."""
    with vercel_emulator(token=TOKEN) as emulator:
        yield emulator
        said = [record_of(emulator, exchange) for exchange in emulator.exchanges]
    assert said
    assert [(each.method, each.path, line) for each in said for line in unexpected(each)] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    return made


def test_it_stages_looks_promotes_and_rolls_back(vercel: VercelEmulator, folder: Path) -> None:
    live = vercel.add(A, live=True)
    body: dict[str, Any] = {"name": "shop", "project": PROJECT, "target": "production"}
    body |= {"gitSource": {"type": "github", "repoId": 4711, "ref": B, "sha": B}}
    project = {"projectId": PROJECT, **OF_TEAM}
    calls: Calls = [
        ("deployments.createDeployment", {**OF_TEAM, "requestBody": body}),
        *[("deployments.getDeployment", {"idOrUrl": "dpl_0002", **OF_TEAM})] * 3,
        ("deployments.getDeploymentEvents", {"idOrUrl": "dpl_0002", **OF_TEAM}),
        ("deployments.getDeployments", {**project, "target": "production", "limit": 20}),
        ("projects.requestPromote", {**project, "deploymentId": "dpl_0002"}),
        *[("projects.getProject", {"idOrName": PROJECT, **OF_TEAM})] * 2,
        ("aliases.getAlias", {"idOrAlias": vercel.domain, **OF_TEAM}),
        ("projects.requestRollback", {**project, "deploymentId": live.id}),
        *[("projects.getProject", {"idOrName": PROJECT, **OF_TEAM})] * 2,
        ("projects.filterProjectEnvs", {"idOrName": PROJECT, **OF_TEAM}),
    ]
    vercel.assigns = False
    answers = call_npm("vercel", vercel.url, TOKEN, calls, cwd=folder)
    assert [(call[0], answer) for call, answer in zip(calls, answers, strict=True) if "error" in answer] == []
    made, *_, ready = (answer["value"] for answer in answers[:4])
    assert (made["readyState"], ready["readyState"], ready["aliasAssigned"]) == ("QUEUED", "READY", True)
    assert [each["uid"] for each in answers[5]["value"]["deployments"]] == ["dpl_0002", live.id]
    requests = [answers[at]["value"]["lastAliasRequest"] for at in (8, 12)]
    assert [(each["type"], each["toDeploymentId"], each["jobStatus"]) for each in requests] == [
        ("promote", "dpl_0002", "succeeded"),
        ("rollback", live.id, "succeeded"),
    ]
    assert answers[9]["value"]["deploymentId"] == "dpl_0002"
    assert (vercel.production, vercel.assigns) == (live.id, False)


def test_it_takes_a_rolling_release_through_its_stages(vercel: VercelEmulator, folder: Path) -> None:
    vercel.add(A, live=True)
    canary = vercel.add(B)
    vercel.stages = [10, 50, 100]
    project = {"idOrName": PROJECT, **OF_TEAM}

    def step(name: str, **body: object) -> tuple[str, dict[str, Any]]:
        return f"rollingRelease.{name}", {**project, "requestBody": {"canaryDeploymentId": canary.id, **body}}

    calls: Calls = [
        step("startRollingRelease"),
        step("approveRollingReleaseStage", nextStageIndex=1),
        ("rollingRelease.getRollingRelease", project),
        step("completeRollingRelease"),
    ]
    answers = call_npm("vercel", vercel.url, TOKEN, calls, cwd=folder)
    assert [answer for answer in answers if "error" in answer] == []
    found = [answer["value"]["rollingRelease"] for answer in answers]
    assert [(each["state"], each["activeStage"]["targetPercentage"]) for each in found[:3]] == [
        ("ACTIVE", 10),
        ("ACTIVE", 50),
        ("ACTIVE", 50),
    ]
    assert (found[3]["state"], vercel.production) == ("COMPLETE", canary.id)


def test_it_refuses_an_answer_that_lacks_what_is_documented(vercel: VercelEmulator, folder: Path) -> None:
    assert vercel.link is not None
    del vercel.link["gitCredentialId"]
    calls: Calls = [("projects.getProject", {"idOrName": PROJECT, **OF_TEAM})]
    (answer,) = call_npm("vercel", vercel.url, TOKEN, calls, cwd=folder)
    assert answer["error"]["name"] == "ResponseValidationError"
    assert unexpected(record_of(vercel, vercel.exchanges.pop())) == [
        "answer.link: 'gitCredentialId' is a required property"
    ]
    vercel.link["gitCredentialId"] = "cred_1"
    assert "value" in call_npm("vercel", vercel.url, TOKEN, calls, cwd=folder)[0]
