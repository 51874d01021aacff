"""What the paper leaves open, tried on the data at hand: one table, a row for each choice (see docs/ablations.md).

All choices are scored on the same films with the same draws of patients, so each is compared with the recipe's own
choice draw by draw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from variants import FIRST_PHASE, QUESTIONS, Choice, Models, changed_fields, choices

from cxr_seam.evaluation.methods import BoxCollector, maps_by_model
from cxr_seam.evaluation.results import (
    ALL_BOXES,
    BEST_BOX,
    COSTS,
    FROC,
    LOCALIZATION,
    MEAN_AUC,
    MODEL,
    NOT_MEASURED,
    REFINED,
    SUMMARY,
    TITLES,
    format_estimate,
)
from cxr_seam.findings import FINDINGS
from cxr_seam.inference.predictor import Predictor
from cxr_seam.io import atomic_write
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, Estimate, bootstrap_patients, difference
from cxr_seam.metrics.classification import classification_scores
from cxr_seam.metrics.localization import localization_scores
from cxr_seam.workspace import Workspace

FORMAT = 1


COMPARED = (FROC, MEAN_AUC)
"""The figures in which each choice is compared with the recipe's own."""


NO_BOXES = "not answered: no film of these data carries a true box, and this question concerns boxes alone"


def ablate(
    workspace: Workspace, *, questions: Sequence[str] | None = None, draws: int = N_BOOTSTRAP, seed: int = 0
) -> dict[str, Any]:
    """Train and score every choice of the questions; write `ablations.json` and `ablations.csv` into `keep`.

    The files are written after each question and hold what this call was asked. A variant that is trained already is
    not trained again, so a call that was cut off goes on where it stopped.

    Args:
        workspace: with prepared films and trained MultiRes and MultiRes + PCM models.
        questions: of `variants.QUESTIONS`; None means all.
        draws: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        The content of `ablations.json`: "format", "created", "draws", "seed", "data", and

        - "rows", one for each choice and kind of maps: "question", "choice", "own" (whether it is the recipe's own),
          "maps" (whose: "MultiRes", the classifier's, or "MultiRes + PCM", refined), "changed" (fields of the
          recipes), the measured values of `results.SUMMARY`, "false_positives" (per image and finding, of the two
          accuracies that have them), "seconds" (of training the phases that the question concerns), and
          "difference" (of `COMPARED`, choice minus own, paired, with the same maps; None for the own choice);
        - "notes", a sentence for each question that these data cannot answer.

    Raises:
        InputError: there is no such question, a model is missing, or no film is prepared.
    """
    models = Models(workspace)
    asked = {q: choices(q, models.multires, models.pcm) for q in (QUESTIONS if questions is None else questions)}
    scorer = Scorer(workspace, draws=draws, seed=seed)
    results = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "draws": draws,
        "seed": seed,
        "data": {
            "description": workspace.data,
            "test_images": len(scorer.films),
            "boxed_images": len(scorer.boxed or ()),
            "true_boxes": len(scorer.truth),
        },
        "rows": [],
        "notes": {},
    }
    wanted: dict[Any, set[tuple[str, float]]] = {}
    for choice in (choice for tried in asked.values() for choice in tried):
        wanted.setdefault(choice.model, set()).update((maps, choice.threshold) for maps in choice.maps)
    for question, tried in asked.items():
        if scorer.boxed is None and question not in FIRST_PHASE:
            results["notes"][question] = NO_BOXES
        else:
            scored = [(choice, scorer.scores(choice, models, wanted=wanted[choice.model])) for choice in tried]
            results["rows"] += _rows(scored, models)
        _save(results, workspace.output_dir)
    return results


class Scorer:
    """Scores models on a workspace's test films and on those with true boxes, with the same draws of patients."""

    def __init__(self, workspace: Workspace, *, draws: int, seed: int) -> None:
        """Choose films and draw patients.

        Raises:
            InputError: no film is prepared.
        """
        self.films, tables = workspace.test_dataset(), workspace.metadata()
        self.truth = tables.boxes[tables.boxes["image_index"].isin(self.films.image_index)]
        self.boxed = workspace.boxed_dataset() if len(self.truth) else None
        patients = tables.images["patient_id"]
        self._draws = bootstrap_patients(patients[self.films.image_index].to_numpy(), n_bootstrap=draws, seed=seed)
        if self.boxed is not None:
            boxed = patients[self.boxed.image_index].to_numpy()
            self._boxed_draws = bootstrap_patients(boxed, n_bootstrap=draws, seed=seed)
        self._classified: dict[str, tuple[pd.DataFrame, Estimate, np.ndarray]] = {}
        self._located: dict[Any, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}

    def scores(
        self, choice: Choice, models: Models, *, wanted: set[tuple[str, float]]
    ) -> dict[str, dict[str, tuple[Estimate, np.ndarray | None, float | None]]]:
        """Score a choice, training its model if need be; what was scored for another choice is not scored again.

        Args:
            choice: what to score.
            models: where its model comes from.
            wanted: every (maps, Q) that any choice wants of this model: one pass over the films serves them all.

        Returns:
            By maps and metric: the measured value, its draws, and the false positives per image and finding that it
            was bought with, where it has them. Without boxed films the AUC alone.
        """
        places = [(choice.model, maps, choice.threshold) for maps in choice.maps]
        located = self.boxed is None or all(place in self._located for place in places)
        if choice.first.name not in self._classified or not located:
            predictor = models.predictor(choice)
            self._classify(choice.first.name, predictor)
            if not located:
                self._locate(choice, predictor, wanted=wanted)
        _, auc, samples = self._classified[choice.first.name]
        found = {}
        for maps, place in zip(choice.maps, places, strict=True):
            found[maps] = {MEAN_AUC: (auc, samples, None)}
            if place in self._located:
                found[maps] |= _localization(*self._located[place])
        return found

    def _classify(self, name: str, predictor: Predictor) -> None:
        """Classify all films with a first phase's model, once: the second phase has no part in the probabilities."""
        if name in self._classified:
            return
        values = predictor.probabilities(self.films, desc=f"classify, {name}")
        probabilities = pd.DataFrame(values, self.films.image_index, FINDINGS)
        scores = classification_scores(self.films.labels, probabilities.to_numpy(), bootstrap=self._draws)
        self._classified[name] = probabilities, scores.table["mean"]["auc"], scores.samples[MEAN_AUC]

    def _locate(self, choice: Choice, predictor: Predictor, *, wanted: set[tuple[str, float]]) -> None:
        """Draw a model's maps once and score them, whoever's and at whatever Q they are wanted."""
        collectors = {}
        for maps, threshold in sorted(wanted):
            options = predictor.heatmap_options(refined=maps == REFINED)._replace(threshold=threshold)
            collectors[maps, threshold] = BoxCollector(options, self.truth)
        for names, output in predictor.forward_dataset(self.boxed, desc=f"locate, {choice.question} {choice.name}"):
            cams = maps_by_model(REFINED, output)
            for (maps, _), collector in collectors.items():
                collector.add(names, cams[maps])
        probabilities = self._classified[choice.first.name][0]
        for (maps, threshold), collector in collectors.items():
            boxes = collector.method(MODEL, "", probabilities=probabilities).boxes
            self._located[choice.model, maps, threshold] = localization_scores(
                boxes, self.truth, images=self.boxed.image_index, bootstrap=self._boxed_draws
            )


def _localization(scores: Mapping[str, Any], samples: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """The figures of `results.SUMMARY` but the AUC: measured value, draws, false positives per image and finding."""
    found = {FROC: (LOCALIZATION[FROC].value(scores), samples[LOCALIZATION[FROC]], None)}
    for metric in (BEST_BOX, ALL_BOXES):
        cost = LOCALIZATION[COSTS[metric]].value(scores)["value"]
        found[metric] = LOCALIZATION[metric].value(scores), samples[LOCALIZATION[metric]], cost
    return found


def _rows(scored: Sequence[tuple[Choice, dict[str, dict[str, tuple]]]], models: Models) -> list[dict[str, Any]]:
    """The rows of one question."""
    own = next(scores for choice, scores in scored if choice.own)
    rows = []
    for choice, scores in scored:
        for maps, of_metric in scores.items():
            paired = {}
            for metric in COMPARED:
                if metric in of_metric:
                    (value, samples, _), (own_value, own_samples, _) = of_metric[metric], own[maps][metric]
                    paired[metric] = difference(samples, own_samples, value["value"], own_value["value"])
            rows.append(
                {
                    "question": choice.question,
                    "choice": choice.name,
                    "own": choice.own,
                    "maps": maps,
                    "changed": changed_fields(choice, models.multires, models.pcm),
                    **{metric: of_metric.get(metric, (NOT_MEASURED,))[0] for metric in SUMMARY},
                    "false_positives": {m: of_metric[m][2] for m in (BEST_BOX, ALL_BOXES) if m in of_metric},
                    "seconds": models.seconds(choice),
                    "difference": None if choice.own else paired,
                }
            )
    return rows


def _save(results: Mapping[str, Any], folder: Path) -> None:
    """Write the results as JSON, and the rows as CSV with a column for each value and each end of an interval."""
    with atomic_write(folder / "ablations.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    rows = [row | {"changed": json.dumps(row["changed"])} for row in results["rows"]]
    with atomic_write(folder / "ablations.csv") as temporary:
        pd.json_normalize(rows).to_csv(temporary, index=False)


def ablation_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """The table to read: a row for each choice and kind of maps, figures as text with 95 % intervals.

    The recipe's own choice has a star; the last two columns are each choice minus that one. Accuracies are macro over
    the boxed findings; false positives are per image and finding.
    """
    if not results["rows"]:
        return pd.DataFrame()
    lines = []
    for row in results["rows"]:
        line = {"question": row["question"], "choice": row["choice"] + " *" * row["own"], "maps": row["maps"]}
        for metric in SUMMARY:
            name = TITLES[metric]
            line[name] = format_estimate(row[metric])
            if metric in (BEST_BOX, ALL_BOXES):
                cost = row["false_positives"].get(metric)
                line["its false positives" if metric == BEST_BOX else "their false positives"] = (
                    "" if cost is None else f"{cost:.3f}"
                )
        line["training"] = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        for metric in COMPARED:
            line[f"{TITLES[metric]} - own"] = format_estimate((row["difference"] or {}).get(metric, NOT_MEASURED))
        lines.append(line)
    return pd.DataFrame(lines).set_index(["question", "choice", "maps"])
