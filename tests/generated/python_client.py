"""Uses the client made by openapi-python-client in every form that the document describes."""

import base64
import io
import os
from pathlib import Path

from python import Client
from python.api.models import list_models
from python.api.operations import ready
from python.api.predictions import predict, predict_batch
from python.models import (
    Answer,
    PredictBatchFilesBody,
    PredictBatchRequest,
    PredictFilesBody,
    Predictions,
    PredictRequest,
    ProblemDocument,
)
from python.types import File

seven = Path(os.environ["SEVEN"]).read_bytes()
image = base64.b64encode(seven).decode()
client = Client(base_url=os.environ["ADDRESS"])


def file() -> File:
    return File(payload=io.BytesIO(seven), file_name="7.png", mime_type="image/png")


for body in (PredictRequest(image=image), PredictFilesBody(image=file()), file()):
    answer = predict.sync(client=client, body=body, target=0.5)
    assert isinstance(answer, Answer), answer
    assert answer.label.name == "7"
    assert answer.robust is True
# The same option in both places, and one whose default the client might send by itself.
both = PredictRequest(image=image, target=0.5, evidence=True)
answer = predict.sync(client=client, body=both, target=0.5)
assert isinstance(answer, Answer), answer
assert answer.evidence

# Options beside the file, as fields of its form.
fields = PredictFilesBody(image=file(), target=0.5, max_draws=400, evidence=True, scores="all")
answer = predict.sync(client=client, body=fields)
assert isinstance(answer, Answer), answer
assert answer.target == 0.5
assert answer.budget.asked == 400
assert answer.evidence

several = PredictBatchFilesBody(image=[file(), file()])
for body in (PredictBatchRequest(images=[image, "bm8="]), several):
    answers = predict_batch.sync(client=client, body=body)
    assert isinstance(answers, Predictions), answers
    assert len(answers.predictions) == 2
    assert isinstance(answers.predictions[0], Answer)

problem = predict.sync(client=client, body=PredictRequest(image="bm8="))
assert isinstance(problem, ProblemDocument), problem
assert problem.type_ == "/problems/not-a-picture"
refused = predict.sync(client=client, body=PredictRequest(image=image), max_draws=1)
assert isinstance(refused, ProblemDocument), refused
assert refused["option"] == "max_draws"

models = list_models.sync(client=client)
assert models
assert models.models[0].name == "mnist-cnn"
assert ready.sync(client=client)
