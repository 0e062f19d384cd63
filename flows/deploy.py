"""Runbook, "Deployment Process"."""

from __future__ import annotations

from prefect import flow

from blocks.environment import load_environment
from runbook.procedures import deploy as procedure
from runbook.reports import DeployReport
from tasks import application, backup, checklist, health, migration, notification, record, recovery, restore, test_suite

STAGES = procedure.DeployStages(
    # Stage 1: Pre-Deployment Validation
    plan_release=checklist.plan_release,
    # Stage 2: Test Suite
    run_test_suite=test_suite.run_test_suite,
    # Stage 3: Database Backup
    create_backup=backup.create_backup,
    verify_backup=backup.verify_backup,
    prove_by_copy=backup.prove_by_copy,
    copy_backup=backup.copy_backup,
    prepare_rollback=backup.prepare_rollback,
    # Stage 4: Database Migration, with automatic rollback on failure
    rehearse_migrations=migration.rehearse_migrations,
    schema_state=migration.schema_state,
    apply_migrations=migration.apply_migrations,
    verify_migrations=migration.verify_migrations,
    begun_migrations=migration.begun_migrations,
    undo_migrations=migration.undo_migrations,
    restore_replacement=restore.restore_replacement,
    quote_loss=restore.quote_loss,
    replay_writes=restore.replay_writes,
    swap_in=restore.swap_in,
    # Stage 5: Application Deployment
    stage_release=application.stage_release,
    smoke_release=application.smoke_release,
    promote_release=application.promote_release,
    start_rolling=application.start_rolling,
    advance_rolling=application.advance_rolling,
    roll_back_release=application.roll_back_release,
    # Stage 6: Post-Deployment Validation
    validate_release=health.validate_release,
    watch_release=health.watch_release,
    probe_state=health.probe_state,
    # Stage 7: Notifications
    notify=notification.notify,
    record_deploy=record.record_deploy,
)


@flow(name="deploy", flow_run_name="deploy-{environment}-{git_ref}", retries=0)
def deploy(
    environment: str,
    git_ref: str,
    reason: str = "scheduled release",
    application_only: bool = False,
    skip_tests: str = "",
    triggered_by: str = "",
) -> DeployReport:
    """Release a commit through all seven stages, or leave everything as it was.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        git_ref: branch, tag or commit to release.
        reason: why; it is recorded.
        application_only: release the application alone, without test suite, backup and migration; refused when a
            migration is pending. For when what comes before was done by hand.
        skip_tests: why the test suite is not run, for an emergency; it is recorded. Empty: it is run.
        triggered_by: who or what asked; the name of this run when left empty.
    """
    request = procedure.DeployRequest(
        git_ref, reason, triggered_by or record.triggered_by_run(), application_only, skip_tests
    )
    connections = load_environment(environment).connect()
    recovery.recover(connections, triggered_by=request.triggered_by)
    return procedure.deploy(connections, request, STAGES)
