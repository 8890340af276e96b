"""Answers as the Open Inference Protocol's tensors."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from service.http.api.answers import Answer, LabelScore

_DTYPES = {"INT64": "<i8", "FP32": "<f4", "BOOL": "?"}


@dataclass(frozen=True)
class Output:
    """An output tensor: one row for each answer, with one value or one for each label."""

    name: str
    datatype: str
    row: Callable[[Answer], list[Any]]
    per_label: bool = False
    rounded: float = 0.0  # -inf: never above the value, inf: never below it

    def width(self, labels: int) -> int:
        """The length of a row."""
        return labels if self.per_label else 1

    def tensor(self, answers: list[Answer]) -> NDArray[Any]:
        """Return the values, [batch, width]."""
        exact = np.array([self.row(answer) for answer in answers])
        with np.errstate(over="ignore"):
            values = exact.astype(_DTYPES[self.datatype])
        if self.rounded:
            wrong = values > exact if self.rounded < 0 else values < exact
            values[wrong] = np.nextafter(values[wrong], np.float32(self.rounded))
        return values


def _by_label(value: Callable[[LabelScore], float]) -> Callable[[Answer], list[float]]:
    """Read one number of every label's score, in the order of the labels."""
    return lambda answer: [
        value(score) for score in sorted(answer.scores, key=lambda score: score.index)
    ]


def _certain(answer: Answer) -> list[bool]:
    """Say of each label whether it is in the certain set."""
    if answer.certain is None:
        return [True] * len(answer.scores)
    labels = {label.index for label in answer.certain.labels}
    return [index in labels for index in range(len(answer.scores))]


def _target(answer: Answer) -> list[float]:
    return [np.nan if answer.target is None else answer.target]


def _within_allowed(answer: Answer) -> list[bool]:
    return [answer.certain is not None and answer.certain.within_allowed is True]


_ALL = (
    Output("LABEL", "INT64", lambda answer: [answer.label.index]),
    Output("SCORES", "FP32", _by_label(lambda score: score.expected), True),
    Output("SCORES_LOWER", "FP32", _by_label(lambda score: score.lower), True, -np.inf),
    Output("SCORES_UPPER", "FP32", _by_label(lambda score: score.upper), True, np.inf),
    Output("SIZE", "FP32", lambda answer: [answer.certified_size], rounded=-np.inf),
    Output("ROBUST", "BOOL", lambda answer: [answer.robust is True]),
    # BOOL has no unknown: without a target ROBUST is false, and TARGET is NaN.
    # It is rounded against SIZE: what compares the two never finds more than ROBUST says.
    Output("TARGET", "FP32", _target, rounded=np.inf),
    Output("DRAWS", "INT64", lambda answer: [answer.draws]),
    # The labels that may be first under a change up to the target: without one, all of them.
    Output("CERTAIN", "BOOL", _certain, True),
    Output("WITHIN_ALLOWED", "BOOL", _within_allowed),
)
OUTPUTS = {output.name: output for output in _ALL}


def _one_or_all(values: list[Any]) -> Any:
    """Return one value for all answers, or the list of them if they differ."""
    return values if any(value != values[0] for value in values) else values[0]


def respond(
    request_id: str,
    wanted: dict[str, bool],
    answers: list[Answer],
    headers: dict[str, str],
    asked: str,
) -> Response:
    """Answer a request.

    Args:
        request_id: the client's own, if it gave one.
        wanted: the names of outputs, and whether each shall be binary, after the JSON.
        answers: at least one, all of the same model, or of members of one family.
        headers: of the answer.
        asked: the model or family that was asked.
    """
    outputs, blobs = [], []
    for name, binary in wanted.items():
        tensor = OUTPUTS[name].tensor(answers)
        described = {
            "name": name,
            "datatype": OUTPUTS[name].datatype,
            "shape": list(tensor.shape),
        }
        if binary:
            blobs.append(tensor.tobytes())
            outputs.append({**described, "parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            # JSON has neither NaN nor infinity, which a target beyond FP32 is; numpy reads null as
            # NaN, too.
            data = [value if isfinite(value) else None for value in tensor.ravel().tolist()]
            outputs.append({**described, "data": data})
    first = answers[0]
    models = _one_or_all([(answer.model.name, answer.model.version) for answer in answers])
    digests = _one_or_all([answer.model.digest for answer in answers])
    same = isinstance(models, tuple)
    body = {
        "model_name": first.model.name if same else asked,
        **({"model_version": first.model.version} if same else {}),
        **({"id": request_id} if request_id else {}),
        # What the outputs mean, for readers of an answer without its request.
        "parameters": {
            "confidence": first.confidence,
            "norm": first.norm,
            # Parameters are plain values: lists are JSON.
            **({} if same else {"models": json.dumps([":".join(model) for model in models])}),
            "digest": digests if isinstance(digests, str) else json.dumps(digests),
            "compute": json.dumps(_one_or_all([one.compute.model_dump() for one in answers])),
        },
        "outputs": outputs,
    }
    content = json.dumps(body).encode()
    if not blobs:
        return Response(content, headers=headers, media_type="application/json")
    headers = headers | {"Inference-Header-Content-Length": str(len(content))}
    return Response(
        b"".join([content, *blobs]), headers=headers, media_type="application/octet-stream"
    )
