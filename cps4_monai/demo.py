"""The whole chain on a phantom: data, stage 1, stage 2, inference, evaluation, and one report that compares."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cps4_monai.data.phantom import write_phantom_dataset
from cps4_monai.evaluation.folder import Evaluation
from cps4_monai.evaluation.trivial_baseline import write_mean_label_maps
from cps4_monai.report.attention_pictures import attention_pictures
from cps4_monai.report.predictions import PredictionReport, report_predictions
from cps4_monai.run_folder import LOG, STAGE1_WEIGHTS, STAGE2
from cps4_monai.workflow import CPS4Workflow

logger = logging.getLogger(__name__)

SUBJECTS = {"labeled": 2, "unlabeled": 14, "validation": 2, "test": 6}
VARIATION = 0.22
OVERLAYS = ("small", "demo")
TRIVIAL = "mean label map"


@dataclass(frozen=True)
class DemoResult:
    """The report, and the summary table of each method, the trivial baseline first."""

    html: Path
    summaries: dict[str, pd.DataFrame]

    def headline(self, metric: str = "dice_b") -> dict[str, pd.Series]:
        """Method -> row (mean, ci_low, ci_high, ...) of one metric over all held-out subjects."""
        return {
            name: table[(table["structure"] == "overall") & (table["metric"] == metric)].iloc[0]
            for name, table in self.summaries.items()
        }


@dataclass
class Demo:
    """One demo run in a folder; every step can be resumed, and is skipped when it is done.

    Args:
        output: folder for the data, the runs and the report.
        seed: of the phantom and of the training; what is of another than 0 lies in a folder of its own in ``output``.
        device: "auto", "cpu", "cuda:N" or "mps".
        settings: overrides for the configs, e.g. to make it shorter.
        size: pixels of the phantom in plane.
        say: takes one line of progress for the user.
    """

    output: Path
    seed: int = 0
    device: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    size: int = 512
    say: Callable[[str], None] = logger.info

    @property
    def folder(self) -> Path:
        """Where all files go: those of two seeds do not meet."""
        return self.output if self.seed == 0 else self.output / f"seed-{self.seed}"

    @property
    def data_dir(self) -> Path:
        """Folder of the phantom."""
        return self.folder / "phantom"

    def run(self) -> DemoResult:
        """All steps; the report is that of CPS4 with the other methods beside it."""
        steps: dict[str, Callable[[], object]] = {
            "phantom": self.make_phantom,
            "stage 1": lambda: self.train("cps4", "training_stage1"),
            "supervised": lambda: self.train("supervised", "training_stage2"),
            "stage 2, cps4": lambda: self.train("cps4", "training_stage2"),
            "inference, evaluation, report": self.evaluate,
        }
        for number, (name, step) in enumerate(steps.items(), start=1):
            self.say(f"{number} of {len(steps)}, {name}")
            started = time.perf_counter()
            result = step()
            self.say(f"{name}: {time.perf_counter() - started:.0f} s")
        assert isinstance(result, DemoResult)  # of the last step
        return result

    def bar(self, total: int, description: str, unit: str) -> tqdm:
        """A progress bar with the time left, for what has none of its own."""
        hidden = not self.settings.get("show_progress", True)
        return tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True, disable=hidden)

    def make_phantom(self) -> None:
        """Writes the seeded phantom, unless it is there."""
        if (self.data_dir / "datalist.json").is_file():
            return
        subjects = sum(SUBJECTS.values())
        with self.bar(subjects, "phantom", "subject") as bar:
            write_phantom_dataset(
                self.data_dir,
                subjects=subjects,
                seed=self.seed,
                size=self.size,
                sacrum_free_share=0.0,
                variation=VARIATION,
                labeled=SUBJECTS["labeled"],
                val=SUBJECTS["validation"],
                test=SUBJECTS["test"],
                on_subject=lambda name: bar.update(),
            )

    def predict(self, method: str) -> CPS4Workflow:
        """The workflow that predicts the held-out subjects: the plain argmax on slices cropped as in training."""
        return self.workflow(method, "predict", "evaluate", evaluation_decoding=False, evaluation_size="@slice_size")

    def workflow(self, method: str, run_id: str, *more: str, **settings: Any) -> CPS4Workflow:
        """The bundle's workflow with the demo's overlays and one method's."""
        workflow = CPS4Workflow(
            overlays=[f"methods/{method}", *OVERLAYS, *more],
            run_id=run_id,
            dataset_dir=str(self.data_dir),
            datalist=str(self.data_dir / "datalist.json"),
            output_dir=str(self.folder / "runs" / method),
            cache_dir=str(self.folder / "cache"),
            stage1_checkpoint=str(self.folder / "runs" / "cps4" / STAGE1_WEIGHTS),
            seed=self.seed,
            device_name=self.device,
            **{**self.settings, **settings},
        )
        workflow.initialize()
        return workflow

    def train(self, method: str, run_id: str) -> None:
        """One training stage; resumes, or ends at once when it is finished."""
        self.workflow(method, run_id).run()

    def evaluate(self) -> DemoResult:
        """Predicts and scores the held-out subjects with each method."""
        with self.bar(5, "evaluation", "step") as bar:
            scored: dict[str, Evaluation] = {}
            workflow = self.predict("cps4")
            scored[TRIVIAL] = self._trivial(workflow)
            bar.update()
            self.predict("supervised").run()
            bar.update()
            scored["supervised"] = self.score(self.folder / "runs" / "supervised" / "evaluation").evaluation
            bar.update()
            workflow.run()
            bar.update()
            report = self._report(workflow, scored)
            bar.update()
        return DemoResult(
            report.html, {name: one.summary for name, one in {**scored, "cps4": report.evaluation}.items()}
        )

    def _trivial(self, workflow: CPS4Workflow) -> Evaluation:
        """Scores of the mean label map of the labeled subjects, as the prediction of every held-out one."""
        parsed = workflow.parser.get_parsed_content
        data, folder = parsed("data"), self.folder / "runs" / "mean_label_map" / "evaluation"
        write_mean_label_maps(
            data.labeled, data.test, parsed("cache").in_plane, folder / "predictions", parsed("anatomy").num_classes
        )
        return self.score(folder).evaluation

    def _report(self, workflow: CPS4Workflow, comparison: dict[str, Evaluation]) -> PredictionReport:
        """The page of CPS4, with the other methods beside it."""
        parsed = workflow.parser.get_parsed_content
        attention = attention_pictures(
            parsed("stage1_checkpoint"),
            parsed("data").test,
            parsed("cache"),
            parsed("anatomy"),
            parsed("pictured_structures"),
            parsed("device"),
        )
        return self.score(
            self.folder / "runs" / "cps4" / "evaluation",
            title="CPS4 on a phantom",
            settings=parsed("context").settings,
            attention=attention,
            metrics=self.folder / "runs" / "cps4" / STAGE2 / LOG,
            comparison=comparison,
            method="cps4",
        )

    def score(self, folder: Path, **content: Any) -> PredictionReport:
        """Tables and report of the predictions in ``folder``."""
        return report_predictions(folder / "predictions", self.data_dir / "datalist.json", folder, **content)
