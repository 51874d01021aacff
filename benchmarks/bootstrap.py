"""Time the intervals of classification scores, compared with a loop over replicates with scikit-learn.

    python benchmarks/bootstrap.py [--json] [--quick] [--rounds N]

Random scores of the size of NIH's test set: 25,596 images of 2,797 patients, 14 findings, the same numbers of
positives. Ours makes 1,000 draws of patients and gives AUC, average precision, sensitivity, specificity and F1 of each.
The loops give AUC and average precision alone, once on the rows that a draw repeats and once on all rows with
`sample_weight`; they make a few of the same draws, and their seconds are scaled to 1,000.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import measure
import numpy as np

from cxr_seam.findings import OPERATING_POINTS
from cxr_seam.metrics.bootstrap import N_BOOTSTRAP, PatientBootstrap, bootstrap_patients
from cxr_seam.metrics.classification import bootstrap_auc_ap, classification_scores

SIZE = {"patients": 2797, "images": 25596}
POSITIVES = (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86)
"""Of each finding in the official test list."""
QUICK_SIZE = {"patients": 60, "images": 400}
LOOP_DRAWS, QUICK_LOOP_DRAWS = 5, 2
GOAL_SECONDS, GOAL_MIB = 20, 1024

Ranked = tuple[np.ndarray, np.ndarray]
"""AUC and average precision, (draws, 14) each."""


def inputs(*, patients: int, images: int) -> tuple[np.ndarray, np.ndarray, PatientBootstrap]:
    """Labels (N, 14), probabilities (N, 14) that know something of them, and the draws."""
    generator = np.random.default_rng(0)
    patient_id = np.r_[np.arange(patients), generator.integers(patients, size=images - patients)]
    labels = (generator.random((images, len(POSITIVES))) < np.array(POSITIVES) / SIZE["images"]).astype(np.uint8)
    labels[:2] = [[0], [1]]
    logits = generator.normal(size=labels.shape) + labels
    return labels, 1 / (1 + np.exp(-logits)), bootstrap_patients(patient_id)


def ours(labels: np.ndarray, probabilities: np.ndarray, draws: PatientBootstrap) -> None:
    """All draws, all scores."""
    classification_scores(
        labels, probabilities, bootstrap=draws, thresholds=dict.fromkeys(OPERATING_POINTS, np.full(len(POSITIVES), 0.5))
    )


def of_rows(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Iterator[tuple]:
    """What scikit-learn is given for each finding: the rows that the draw repeats."""
    rows = np.repeat(np.arange(len(labels)), weights)
    for i in range(len(POSITIVES)):
        yield labels[rows, i], probabilities[rows, i], None


def of_weights(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Iterator[tuple]:
    """What scikit-learn is given for each finding: all rows, with weights."""
    for i in range(len(POSITIVES)):
        yield labels[:, i], probabilities[:, i], weights


LOOPS: dict[str, Callable[..., Iterator[tuple]]] = {"loop over rows": of_rows, "loop with weights": of_weights}


def loop(name: str, labels: np.ndarray, probabilities: np.ndarray, draws: PatientBootstrap, count: int) -> Ranked:
    """AUC and average precision of the first `count` draws."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    auc, average_precision = np.full((2, count, len(POSITIVES)), np.nan)
    for draw, weights in enumerate(draws.weights(0, count)):
        for i, (true, score, weight) in enumerate(LOOPS[name](weights, labels, probabilities)):
            if len(np.unique(true if weight is None else true[weight > 0])) == 2:
                auc[draw, i] = roc_auc_score(true, score, sample_weight=weight)
                average_precision[draw, i] = average_precision_score(true, score, sample_weight=weight)
    return auc, average_precision


def memory(*, patients: int, images: int) -> dict[str, int]:
    """Peak memory of ours above its inputs; run in a process of its own."""
    given = inputs(patients=patients, images=images)
    ours(*inputs(**QUICK_SIZE))  # what the first call of all loads belongs to no candidate
    return {"bytes": measure.peak_bytes(lambda: ours(*given))}


def main() -> None:
    """Measure and print the report."""
    options = measure.parser(__doc__, rounds=3).parse_args()
    measure.use_two_cores()
    if options.child:
        print(json.dumps(memory(**options.child)))
        return
    rounds = 2 if options.quick else options.rounds
    size = QUICK_SIZE if options.quick else SIZE
    few = QUICK_LOOP_DRAWS if options.quick else LOOP_DRAWS
    labels, probabilities, draws = given = inputs(**size)
    candidates = {"ours": lambda: ours(*given)} | {name: lambda name=name: loop(name, *given, few) for name in LOOPS}
    seconds = measure.in_turn(candidates, rounds=rounds)
    seconds |= {name: [taken * N_BOOTSTRAP / few for taken in seconds[name]] for name in LOOPS}
    peak = measure.in_fresh_process(memory, quick=options.quick, **size)["bytes"]
    ranked = [bootstrap_auc_ap(labels[:, i], probabilities[:, i], bootstrap=draws) for i in range(len(POSITIVES))]
    same_draws = np.array(ranked).transpose(1, 2, 0)[:, :few]
    rows = [
        {"candidate": "ours", "draws made": N_BOOTSTRAP,
         "seconds for 1,000 draws": measure.spread(seconds["ours"])["median"],
         "goal": f"at most {GOAL_SECONDS} s, {GOAL_MIB} MiB", "peak MiB": peak / measure.MIB}
    ]  # fmt: skip
    for name in LOOPS:
        rows.append(
            {"candidate": name, "draws made": few, "seconds for 1,000 draws": measure.spread(seconds[name])["median"],
             "scores differ from ours by": float(np.nanmax(np.abs(np.array(loop(name, *given, few)) - same_draws)))}
        )  # fmt: skip
    measure.Report(
        "bootstrap",
        {"images": len(labels), "patients": draws.counts.shape[1], "draws": len(draws), "rounds": rounds},
        {
            "AUC and average precision of 14 findings, with ours also sensitivity, specificity and F1": rows,
            "Ratios, pair by pair": [
                measure.compare(f"time, ours / {name}", seconds["ours"], seconds[name]) for name in LOOPS
            ],
        },
        ["drawing the patients, which takes a tenth of a second; the loops' memory; localization's intervals"],
    ).show(as_json=options.json)


if __name__ == "__main__":
    main()
