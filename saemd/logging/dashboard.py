"""The W&B workspace of a project, as code: one command builds it where an account is online.

    python -m saemd.logging.dashboard [project=saemd] [entity=<user or team>] [name="saemd: starts and stability"]

Each call saves a new view; earlier ones stay. Needs `wandb-workspaces` (the `dashboard` extra).
"""

import sys
from typing import Any

from saemd.arguments import key_values
from saemd.cli import entry
from saemd.errors import UserError, bad_value
from saemd.logging import names
from saemd.logging.account import has_credentials, reach, server
from saemd.logging.config import LoggerConfig

VIEW = "saemd: starts and stability"
RUNS_SHOWN = 100  # per panel; wandb's default of ten hides half of a sweep


def build_workspace(entity: str, project: str, name: str = VIEW) -> Any:
    """The workspace as an object of `wandb_workspaces`. Its `save` sends it.

    Runs are grouped by start, then by target L0: a curve is the mean over seeds, and its band is their range. Raises
    `UserError` where `wandb-workspaces` is not installed.
    """
    wr, ws = _libraries()

    def line(title: str, *metrics: str, **options: Any) -> Any:
        return wr.LinePlot(
            title=title,
            x=names.TOKENS,
            y=list(metrics),
            groupby_rangefunc="minmax",
            max_runs_to_show=RUNS_SHOWN,
            **options,
        )

    def scatter(title: str, x: Any, y: str, **options: Any) -> Any:
        legend = "${run:displayName}"  # start, L0 and seed
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), legend_template=legend, **options)

    def by_l0(title: str, metric: str) -> Any:
        return wr.LinePlot(
            title=title, x=names.STABILITY_L0, metric_regex=f"^{metric}/.*", log_x=True, range_y=(0.0, 1.0)
        )

    def section(name: str, *panels: Any) -> Any:
        return ws.Section(name=name, is_open=True, panels=list(panels))

    target = wr.Config(names.CONFIG_L0)
    sections = [
        section(
            "Reconstruction and sparsity, by start",
            scatter("FVU against achieved L0", wr.SummaryMetric("final/l0"), "final/fvu", log_x=True),
            scatter("Achieved against target L0", target, "final/l0", log_x=True, log_y=True),
            scatter("Explained variance", wr.SummaryMetric("final/l0"), "final/explained_variance", log_x=True),
            scatter("Dead latents at the end", target, "final/dead_fraction", log_x=True),
            scatter("Decoder: cos(w_t, w_0) at the end", target, "final/drift_dec", log_x=True),
            scatter("Encoder: cos(w_t, w_0) at the end", target, "final/drift_enc", log_x=True),
        ),
        section(
            "Stability, by start and L0",
            by_l0("Same partner by encoder and decoder", "stability/same_match"),
            by_l0("Shared features", "stability/shared"),
            by_l0("Matched cosine, encoder", "stability/mean_cos_enc"),
            by_l0("Matched cosine, decoder", "stability/mean_cos_dec"),
            by_l0("How near the start the decoder stayed", "stability/drift_dec"),
            by_l0("Matched cosine of random dictionaries", "stability/random_floor"),
            wr.WeavePanelSummaryTable(table_name=names.STABILITY_TABLE),
            wr.MediaBrowser(title="Figures", media_keys=[names.STABILITY_FIGURES], num_columns=2),
        ),
        section(
            "Training",
            line("Loss", "train/loss", log_y=True),
            line("Reconstruction error", "train/reconstruction", log_y=True),
            line("L0", "train/l0", log_y=True),
            line("FVU", "train/fvu", log_y=True),
            line("Explained variance", "train/explained_variance", range_y=(0.0, 1.0)),
            line("Dead latents", "train/dead_fraction"),
            line("Threshold quantiles", "train/threshold_q05", "train/threshold_q50", "train/threshold_q95"),
            line("Drift from the start, cos(w_t, w_0)", "train/drift_dec", "train/drift_enc"),
            line("Gradient norm before clipping", "train/grad_norm", log_y=True),
            line("Sparsity coefficient", "train/sparsity_coefficient"),
            line("Learning rate", "train/learning_rate"),
            line("Throughput, tokens per second", "train/tokens_per_second"),
        ),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=names.TOKENS, max_runs=RUNS_SHOWN),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config(names.CONFIG_INIT), ws.Config(names.CONFIG_L0)],
            order=[ws.Ordering(ws.Config(names.CONFIG_L0), ascending=True)],
            pinned_columns=["run:displayName", *(f"summary:{metric}" for metric in names.FINAL)],
        ),
    )


def save_workspace(project: str, entity: str | None, name: str = VIEW) -> str:
    """Build the workspace and save it online. Returns its address. Raises `UserError` where W&B refuses it."""
    if not has_credentials():
        again = f"python -m saemd.logging.dashboard project={project}"
        raise UserError(f"no W&B account is online here: run `wandb login` (or set WANDB_API_KEY), then `{again}`")
    _libraries()
    reach(server())
    import wandb

    try:
        api = wandb.Api()
        owner = entity or api.default_entity
    except Exception as error:  # wandb's own classes differ from version to version
        raise _refused(error) from error
    if not owner:
        raise bad_value("entity", entity, "the account has no default entity; name your user or team")
    workspace = build_workspace(owner, project, name)
    try:
        api.create_project(project, owner)  # a view needs its project; an existing one stays as it is
        return workspace.save().url
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> UserError:
    return UserError(f"W&B refused ({type(error).__name__}): {str(error).strip().splitlines()[0]}")


def main(arguments: list[str]) -> int:
    """The command. Returns its exit code: 0, or 2 after one line that says what to correct."""
    values: dict[str, str | None] = {"project": LoggerConfig().project, "entity": None, "name": VIEW}
    try:
        values |= key_values(arguments, values)
        print(save_workspace(str(values["project"]), values["entity"], str(values["name"])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _libraries() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise UserError("wandb-workspaces is not installed: pip install 'saemd[dashboard]'") from error
    return wr, ws


if __name__ == "__main__":
    entry(main)
