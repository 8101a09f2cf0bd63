"""`evergreen github`: a repository at GitHub."""

from typing import Annotated

import typer

from evergreen.settings import GitHubSettings

app = typer.Typer(
    help="Prepare a repository at GitHub.", epilog="Example: evergreen github bootstrap --apply", no_args_is_help=True
)


@app.command(epilog="Example: GITHUB_REPOSITORY=you/evergreen GITHUB_TOKEN=$(gh auth token) evergreen github bootstrap")
def bootstrap(
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes; without it they are only shown.")] = False,
) -> None:
    """Prepare a repository for the loop: labels, protection of main, environment; name the secrets and variables.

    Shows what is there and what would change. Applied again, it changes nothing.
    """
    from evergreen.github_bootstrap import NAMES, Bootstrap  # noqa: PLC0415 - imports PyGithub

    repository = Bootstrap(GitHubSettings.load())
    plan = repository.plan()
    missing = [change for change in plan.changes if change.request is not None]
    for change in plan.changes:
        print(f"{'-' if change.request is None else '+'} {change.name}: {change.why}")
    if apply:
        for change in repository.apply(plan):
            print(f"done: {change.name}")
    elif missing:
        print(f"\nNothing was changed. To make the {len(missing)} changes marked +: evergreen github bootstrap --apply")
    print("\nSecrets and variables, which only you can set (each where you need it):")
    for name in NAMES:
        state = "unknown" if plan.present is None else "set" if name.name in plan.present else "not set"
        print(f"  {name.name} ({state}): {name.purpose}\n      {name.command}")
    print("\nThen: evergreen doctor --github")
