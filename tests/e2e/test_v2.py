"""The Open Inference Protocol, with the stock client and by hand."""

import asyncio
import base64
import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from tritonclient.utils import InferenceServerException

from service.http.api.answers import Answer
from service.http.v2.response import OUTPUTS
from tests.e2e.conftest import ROOT, Service

NAMES = ["LABEL", "SCORES", "SCORES_LOWER", "SCORES_UPPER", "SIZE", "ROBUST", "TARGET", "DRAWS"]
NAMES += ["CERTAIN", "WITHIN_ALLOWED"]
INFER = "/v2/models/mnist-cnn/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def pixels(seven: bytes) -> np.ndarray:
    """[1, 28, 28, 1]."""
    return np.asarray(Image.open(io.BytesIO(seven)))[None, :, :, None]


@pytest.fixture
def stock(service: Service) -> Any:
    with triton.InferenceServerClient(service.address.removeprefix("http://")) as client:
        yield client


def image(pixels: np.ndarray, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("IMAGE", list(pixels.shape), "UINT8")
    return tensor.set_data_from_numpy(pixels, binary_data=binary)


def files(contents: list[bytes], binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("IMAGE_BYTES", [len(contents), 1], "BYTES")
    if not binary:
        contents = [base64.b64encode(content) for content in contents]
    array = np.array([[content] for content in contents], dtype=np.object_)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def test_the_stock_client_can_ask_about_the_service(stock: Any) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready("mnist-cnn")
    assert stock.is_model_ready("mnist-cnn", "1")
    assert not stock.is_model_ready("mnist-cnn", "2")
    assert not stock.is_model_ready("other")
    server = stock.get_server_metadata()
    assert server["name"] == "pixeldp"
    assert "binary_tensor_data" in server["extensions"]
    model = stock.get_model_metadata("mnist-cnn", "1")
    assert model["versions"] == ["1"]
    assert model["inputs"][0] == {"name": "IMAGE", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}
    assert model["inputs"][1] == {"name": "IMAGE_BYTES", "datatype": "BYTES", "shape": [-1, 1]}
    assert [output["name"] for output in model["outputs"]] == NAMES
    assert {tuple(output["shape"]) for output in model["outputs"]} == {(-1, 1), (-1, 10)}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("name", ["IMAGE", "IMAGE_BYTES"])
def test_inference(
    stock: Any, seven: bytes, pixels: np.ndarray, name: str, binary_in: bool, binary_out: bool
) -> None:
    given = image(pixels, binary_in) if name == "IMAGE" else files([seven], binary_in)
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput(one, binary_data=binary_out) for one in NAMES]
    result = stock.infer(
        "mnist-cnn",
        [given],
        outputs=outputs,
        request_id="r-1",
        priority=1,
        timeout=20_000_000,
        parameters={"target": 0.5, "confidence": 0.999, "max_draws": 500},
    )
    response = result.get_response()
    assert response["id"] == "r-1"
    assert (response["model_name"], response["model_version"]) == ("mnist-cnn", "1")
    told = response["parameters"]
    assert (told["confidence"], told["norm"]) == (0.999, "l2")
    assert told["digest"].startswith("sha256:")
    assert set(json.loads(told["compute"])) == {
        "device",
        "provider",
        "precision",
        "pass_size",
        "compiled",
    }
    values = {one: result.as_numpy(one) for one in NAMES}
    assert {one: value.dtype for one, value in values.items()} == {
        "LABEL": np.int64,
        "SCORES": np.float32,
        "SCORES_LOWER": np.float32,
        "SCORES_UPPER": np.float32,
        "SIZE": np.float32,
        "ROBUST": np.bool_,
        "TARGET": np.float32,
        "DRAWS": np.int64,
        "CERTAIN": np.bool_,
        "WITHIN_ALLOWED": np.bool_,
    }
    assert values["LABEL"].tolist() == [[7]]
    assert values["ROBUST"].tolist() == [[True]]
    assert values["TARGET"].tolist() == [[0.5]]
    assert values["CERTAIN"].tolist() == [[label == 7 for label in range(10)]]
    assert values["WITHIN_ALLOWED"].tolist() == [[False]]
    assert values["SIZE"].shape == (1, 1)
    assert values["SIZE"][0, 0] >= 0.5
    assert 16 < values["DRAWS"][0, 0] <= 500
    assert values["SCORES"].shape == (1, 10)
    assert values["SCORES"][0].argmax() == 7
    assert (values["SCORES_LOWER"] <= values["SCORES"]).all()
    assert (values["SCORES_UPPER"] >= values["SCORES"]).all()


def test_inference_by_asyncio(service: Service, pixels: np.ndarray) -> None:
    async def ask() -> list[Any]:
        address = service.address.removeprefix("http://")
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("mnist-cnn"))["name"] == "mnist-cnn"
            asked = [
                client.infer("mnist-cnn", [image(pixels, binary)], parameters={"target": 0.5})
                for binary in (True, False)
            ]
            return list(await asyncio.gather(*asked))

    for result in asyncio.run(ask()):
        assert result.as_numpy("LABEL").tolist() == [[7]]
        assert result.as_numpy("ROBUST").tolist() == [[True]]


def test_a_batch_keeps_its_order(stock: Any, pixels: np.ndarray) -> None:
    blank = np.zeros_like(pixels)
    for binary in (True, False):
        batch = image(np.concatenate([pixels, blank, pixels]), binary)
        result = stock.infer("mnist-cnn", [batch], parameters={"target": 0.5})
        labels = result.as_numpy("LABEL")[:, 0]
        assert labels[0] == labels[2] == 7 != labels[1]
        assert result.as_numpy("SCORES").shape == (3, 10)


def test_only_the_requested_outputs_are_sent(stock: Any, pixels: np.ndarray) -> None:
    wanted = [
        triton.InferRequestedOutput("SIZE", binary_data=False),
        triton.InferRequestedOutput("LABEL", binary_data=True),
    ]
    result = stock.infer(
        "mnist-cnn", [image(pixels)], outputs=wanted, parameters={"max_draws": 300}
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["SIZE", "LABEL"]
    assert result.as_numpy("LABEL").tolist() == [[7]]
    assert result.as_numpy("SIZE")[0, 0] > 0.5
    few = {"max_draws": 128}
    result = stock.infer("mnist-cnn", [image(pixels)], parameters=few)
    assert result.as_numpy("ROBUST").tolist() == [[False]], "without a target nothing is robust"
    assert result.as_numpy("CERTAIN").all(), "without a target nothing is excluded"
    for allow, within in (("7", True), ("1,2", False)):
        asked = {"target": 0.3, "allow": allow}
        result = stock.infer("mnist-cnn", [image(pixels)], parameters=asked)
        assert result.as_numpy("WITHIN_ALLOWED").tolist() == [[within]]
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("TARGET", binary_data=binary)]
        result = stock.infer("mnist-cnn", [image(pixels)], outputs=wanted, parameters=few)
        assert np.isnan(result.as_numpy("TARGET")).tolist() == [[True]], "this output says so"


def test_the_largest_batch_is_read_whole(client: httpx.Client, pixels: np.ndarray) -> None:
    """It is nested and has spaces, and only its very last value is wrong."""
    batch = np.repeat(pixels, 256, axis=0).tolist()
    batch[-1][-1][-1][-1] = 256
    response = client.post(INFER, content=json.dumps(tensor(shape=[256, 28, 28, 1], data=batch)))
    assert response.status_code == 400
    assert "not whole numbers from 0 to 255" in response.json()["error"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(stock: Any, pixels: np.ndarray, algorithm: str) -> None:
    for binary in (True, False):
        result = stock.infer(
            "mnist-cnn",
            [image(pixels, binary)],
            request_compression_algorithm=algorithm,
            parameters={"target": 0.5},
        )
        assert result.as_numpy("LABEL").tolist() == [[7]]


def test_the_stock_client_reads_errors(stock: Any, seven: bytes, pixels: np.ndarray) -> None:
    for model, version, status in (("other", "", "404"), ("mnist-cnn", "9", "404")):
        with pytest.raises(InferenceServerException, match="unknown-model") as caught:
            stock.infer(model, [image(pixels)], model_version=version)
        assert caught.value.status() == status
    with pytest.raises(InferenceServerException, match=r"batch, 28, 28, 1"):
        stock.infer("mnist-cnn", [image(pixels[:, :27])])
    wrong = triton.InferInput("IMAGE", [1, 28, 28, 1], "FP32")
    wrong.set_data_from_numpy(pixels.astype(np.float32))
    with pytest.raises(InferenceServerException, match="UINT8"):
        stock.infer("mnist-cnn", [wrong])
    with pytest.raises(InferenceServerException, match="Picture 1 of the batch: Not a picture"):
        stock.infer("mnist-cnn", [files([seven, b"nothing"])])
    with pytest.raises(InferenceServerException, match="There is no parameter 'traget'"):
        stock.infer("mnist-cnn", [image(pixels)], parameters={"traget": 0.5})
    top = triton.InferRequestedOutput("SCORES", class_count=3)
    with pytest.raises(InferenceServerException, match="classification") as caught:
        stock.infer("mnist-cnn", [image(pixels)], outputs=[top])
    assert caught.value.status() == "501"
    with pytest.raises(InferenceServerException, match="not-found"):
        stock.get_model_config("mnist-cnn")


def test_raw_values_alone(client: httpx.Client, pixels: np.ndarray) -> None:
    response = client.post(INFER, content=pixels.tobytes(), headers={LENGTH: "0"})
    result = read_binary(response)
    assert result["LABEL"] == (struct.pack("<q", 7))
    assert len(result["SCORES"]) == 40
    short = client.post(INFER, content=pixels.tobytes()[1:], headers={LENGTH: "0"})
    assert short.status_code == 400
    assert "783 bytes; expected 784" in short.json()["error"]


def read_binary(response: httpx.Response) -> dict[str, bytes]:
    """Split a binary answer by its own description; no byte may be left over."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/octet-stream"
    split = int(response.headers[LENGTH])
    values, found = response.content[split:], {}
    for output in json.loads(response.content[:split])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], values = values[:size], values[size:]
    assert values == b""
    return found


def test_answers_carry_the_headers_that_proxies_route_by(
    client: httpx.Client, pixels: np.ndarray
) -> None:
    blank = np.zeros_like(pixels)
    for batch, target, robust in (
        ([pixels], 0.5, "true"),
        ([pixels], None, "unknown"),
        ([pixels, blank], 3, "false"),
    ):
        parameters = {} if target is None else {"target": target}
        response = client.post(INFER, json=body(np.concatenate(batch), parameters=parameters))
        assert response.headers["Certified-Robust"] == robust
        size, norm, confidence = response.headers["Certified-Size"].split("; ")
        sizes = response.json()["outputs"][NAMES.index("SIZE")]["data"]
        assert float(size) == pytest.approx(min(sizes), rel=1e-6)
        assert norm == "norm=l2"
        assert confidence == ("confidence=0.95" if len(batch) == 1 else "confidence=0.9")


def test_rounding_never_claims_more(client: httpx.Client, seven: bytes) -> None:
    image = np.asarray(Image.open(io.BytesIO(seven)))
    for strength in (0.2, 0.35, 0.5, 1.0):
        content = b"P5 28 28 255\n" + (image * strength).astype(np.uint8).tobytes()
        answer = Answer.model_validate(
            client.post("/predict?max_draws=300", content=content, headers=RAW).json()
        )
        scores = sorted(answer.scores, key=lambda score: score.index)
        tensors = {name: output.tensor([answer])[0] for name, output in OUTPUTS.items()}
        for name, exact in (
            ("SCORES_LOWER", [score.lower for score in scores]),
            ("SIZE", [answer.certified_size]),
        ):
            assert (tensors[name].astype(float) <= exact).all()
            assert (np.nextafter(tensors[name], np.float32(9)).astype(float) > exact).all()
        upper = [score.upper for score in scores]
        assert (tensors["SCORES_UPPER"].astype(float) >= upper).all()
        assert (np.nextafter(tensors["SCORES_UPPER"], np.float32(-9)).astype(float) < upper).all()
        for target in (0.2, 0.3, 0.5, 1e-46, 1e39):
            for size in (target, np.nextafter(target, 0), target * (1 - 1e-9)):
                stated = {"target": target, "certified_size": size}
                told = [answer.model_copy(update=stated)]
                low, high = (OUTPUTS[name].tensor(told) for name in ("SIZE", "TARGET"))
                assert low[0, 0].astype(float) <= size
                assert high[0, 0].astype(float) >= target
                assert np.nextafter(high[0, 0], np.float32(0)).astype(float) < target
                assert size >= target or low[0, 0] < high[0, 0], "at most what ROBUST says"


RAW = {"Content-Type": "application/octet-stream"}


def body(pixels: np.ndarray, **members: Any) -> dict[str, Any]:
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": list(pixels.shape)}
    return {"inputs": [{**tensor, "data": pixels.tolist()}], **members}


def test_a_target_beyond_their_numbers_is_null(client: httpx.Client, pixels: np.ndarray) -> None:
    """JSON has no infinity, and neither have its readers."""
    asked = body(pixels, parameters={"target": 1e39}, outputs=[{"name": "TARGET"}])
    response = client.post(INFER, content=json.dumps(asked))
    assert response.status_code == 200, response.text
    [output] = json.loads(response.text, parse_constant=pytest.fail)["outputs"]
    assert output["data"] == [None]


def tensor(**members: Any) -> dict[str, Any]:
    """A request with an input of which some members are changed."""
    right = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
    made = {**right, **members}
    return {"inputs": [{name: value for name, value in made.items() if value is not None}]}


def flat(value: Any) -> dict[str, Any]:
    return tensor(data=[value, *[0] * 783])


MALFORMED: list[tuple[Any, str]] = [
    ({}, "inputs: field required"),
    ([], "JSON"),
    ({"inputs": []}, "at least 1 item"),
    ({"inputs": [tensor()["inputs"][0]] * 2}, "Give one of the inputs"),
    ({"inputs": [tensor()["inputs"][0]] * 9}, "at most 8 items"),
    (tensor(name="PICTURE"), "no input 'PICTURE'"),
    (tensor(name=1), "inputs.0.name"),
    (tensor(datatype="UINT16"), "IMAGE is UINT8, not 'UINT16'"),
    (tensor(shape=None), "inputs.0.shape: field required"),
    (tensor(shape=[28, 28]), "must have the shape [batch, 28, 28, 1]"),
    (tensor(shape=[1, 28, 28, 3]), "must have the shape [batch, 28, 28, 1]"),
    (tensor(shape=[1, 28, 28, 1.0]), "shape"),
    (tensor(shape=[True, 28, 28, 1]), "shape"),
    (tensor(shape=[-1, 28, 28, 1]), "shape"),
    (tensor(shape=[0, 28, 28, 1], data=[]), "batch of 0; expected 1 to 256"),
    (tensor(shape=[257, 28, 28, 1]), "batch of 257; expected 1 to 256"),
    (tensor(shape=[2**30, 28, 28, 1]), "batch of 1073741824"),
    (tensor(shape=[2**80, 28, 28, 1]), "shape"),
    (tensor(shape=[1] * 9), "shape"),
    (tensor(data=None), "neither data nor binary_data_size"),
    (tensor(data=[]), "neither flat nor nested"),
    (tensor(data=[0] * 783), "neither flat nor nested"),
    (tensor(data=[0] * 785), "neither flat nor nested"),
    (tensor(data=[[0] * 784]), "neither flat nor nested"),
    (tensor(data=[[[[0]] * 28] * 27 + [[[0]] * 27]]), "neither flat nor nested"),
    (tensor(data=[[[[0, 0]] * 28] * 28]), "neither flat nor nested"),
    (tensor(data=[[[0] * 28] * 28]), "neither flat nor nested"),
    (tensor(data=[[[[[0]]] * 28] * 28]), "not whole numbers"),
    (tensor(data="0"), "data"),
    (flat(256), "not whole numbers from 0 to 255"),
    (flat(-1), "not whole numbers from 0 to 255"),
    (flat(0.5), "not whole numbers from 0 to 255"),
    (flat(True), "not whole numbers from 0 to 255"),
    (flat(float("nan")), "not whole numbers from 0 to 255"),
    (flat(float("inf")), "not whole numbers from 0 to 255"),
    (flat(None), "not whole numbers from 0 to 255"),
    (flat("7"), "not whole numbers from 0 to 255"),
    (flat([7]), "neither flat nor nested"),
    (flat({}), "not whole numbers from 0 to 255"),
    (tensor(parameters={"binary_data_size": 784}), "give one"),
    (tensor(data=None, parameters={"binary_data_size": 784}), "0 bytes follow"),
    (tensor(data=None, parameters={"binary_data_size": -1}), "not a length"),
    (tensor(data=None, parameters={"binary_data_size": 784.0}), "not a length"),
    (tensor(data=None, parameters={"binary_data_size": 0}), "0 bytes; expected 784"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[1, 2], data=["x"]), "[batch, 1] or [b"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[], data=["x"]), "[batch, 1] or [batch]"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[0], data=[]), "a batch of 0"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[2], data=["x"]), "neither flat"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[1], data=[["x"]]), "base64"),
    (tensor(name="IMAGE", datatype="UINT8", shape=[784], data=[0] * 784), "[batch, 28, 28, 1], n"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[1, 1], data=["%"]), "base64"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[1, 1], data=[7]), "base64"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[2, 1], data=[""]), "neither flat"),
    (tensor(name="IMAGE_BYTES", datatype="BYTES", shape=[1, 1], data=[""]), "not-a-picture"),
    (tensor() | {"outputs": [{"name": "PROBABILITY"}]}, "no output 'PROBABILITY'"),
    (tensor() | {"outputs": [{"name": "SIZE"}, {"name": "SIZE"}]}, "twice"),
    (tensor() | {"outputs": [{"name": "SIZE", "parameters": {"binary_data": 1}}]}, "true or false"),
    (tensor() | {"parameters": {"binary_data_output": "yes"}}, "true or false"),
    (tensor() | {"parameters": {"target": 0}}, "target"),
    (tensor() | {"parameters": {"target": float("nan")}}, "target"),
    (tensor() | {"parameters": {"target": float("inf")}}, "target"),
    (tensor() | {"parameters": {"target": [1]}}, "target"),
    (tensor() | {"parameters": {"confidence": 1}}, "confidence"),
    (tensor() | {"parameters": {"confidence": 1 - 1e-12, "max_draws": 64}}, "confidence-out-of"),
    (tensor() | {"parameters": {"max_draws": 10**7}}, "max_draws"),
    (tensor() | {"parameters": {"timeout": -1}}, "timeout"),
    (tensor() | {"parameters": {"timeout": 10**15}}, "timeout_ms"),
    (tensor() | {"parameters": {"priority": "high"}}, "priority"),
    (tensor() | {"parameters": {"require": "robust"}}, "no parameter 'require'"),
]


@pytest.mark.parametrize(("content", "text"), MALFORMED)
def test_unusable_requests_get_a_400_that_says_why(
    client: httpx.Client, content: Any, text: str
) -> None:
    response = client.post(INFER, content=json.dumps(content))
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert text in response.json()["error"]


def framed(header: dict[str, Any], blob: bytes, length: int | str | None = None) -> dict[str, Any]:
    """A request in binary form with a stated length, which may be wrong."""
    start = json.dumps(header).encode()
    return {
        "content": start + blob,
        "headers": {LENGTH: str(len(start) if length is None else length)},
    }


def binary(size: int, **members: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **members)


def file_tensor(size: int, batch: int = 1) -> dict[str, Any]:
    return binary(size, name="IMAGE_BYTES", datatype="BYTES", shape=[batch, 1])


FRAMES: list[tuple[dict[str, Any], str]] = [
    (framed(binary(784), bytes(783)), "783 bytes follow the JSON, which states 784"),
    (framed(binary(784), bytes(785)), "785 bytes follow the JSON, which states 784"),
    (framed(binary(783), bytes(783)), "has 783 bytes; expected 784"),
    (framed(binary(2**60), bytes(784)), "784 bytes follow"),
    (framed(tensor(), b"\0"), "1 bytes follow"),
    (framed(binary(784), bytes(784), 10**9), "and the body has"),
    (framed(binary(784), bytes(784), 7), "JSON"),
    (framed(binary(784), bytes(784), -1), "not a length"),
    (framed(binary(784), bytes(784), "many"), "not a length"),
    (framed(binary(784), bytes(784), "9" * 5000), "not a length"),
    (framed(file_tensor(3), bytes(3)), "ends before element 0"),
    (framed(file_tensor(8), struct.pack("<I", 5) + b"four"), "states 5 bytes; 4 are left"),
    (framed(file_tensor(8), struct.pack("<I", 2**32 - 1) + b"four"), "4 are left"),
    (framed(file_tensor(8), struct.pack("<I", 3) + b"four"), "1 bytes after its 1 elements"),
    (framed(file_tensor(4, 2), struct.pack("<I", 0)), "ends before element 1 of 2"),
    ({"content": b""}, "JSON"),
    ({"content": b"[" * 100_000}, "recursion"),
    ({"content": b'{"inputs":' + b"9" * 10_000 + b"}"}, "JSON"),
    ({"content": b"\xff\xfe"}, "JSON"),
    ({"content": b'{"inputs": [' + b"[]," * 2**22 + b"[]]}"}, "more parts than a batch of 200,704"),
    ({"content": b'{"inputs": [' + b"0," * 2**22 + b"0]}"}, "more parts than a batch of 200,704"),
    ({"content": b'{"a":' * 2**20}, "more parts than a batch of 200,704"),
    ({"content": b"{}", "headers": {"Content-Encoding": "br"}}, "not read"),
    ({"content": b"{}", "headers": {"Content-Encoding": "gzip"}}, "not gzip"),
    ({"content": zlib.compress(b"{}")[:-1], "headers": {"Content-Encoding": "deflate"}}, "ends"),
    (
        {"content": gzip.compress(b"{}") + b"x", "headers": {"Content-Encoding": "gzip"}},
        "continues after it",
    ),
    ({"content": gzip.compress(bytes(2**26)), "headers": {"Content-Encoding": "gzip"}}, "too-many"),
    ({"content": bytes(21 * 2**20)}, "too-many-bytes"),
]


@pytest.mark.parametrize("frame", range(len(FRAMES)))
def test_wrong_lengths_are_refused(client: httpx.Client, frame: int) -> None:
    request, text = FRAMES[frame]
    response = client.post(INFER, **request)
    assert response.status_code == 400, response.text
    assert text in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/"),
        ("GET", "/v2/models"),
        ("GET", "/v2/models/mnist-cnn/stats"),
        ("GET", INFER),
        ("PUT", "/v2"),
        ("GET", "/v2/models/mnist-cnn:1"),
        ("GET", "/v2/models/mnist-cnn/versions/1:1"),
        ("GET", "/v2/models/mnist-cnn/versions/01/ready"),
    ],
)
def test_errors_have_the_protocols_form_everywhere(
    client: httpx.Client, method: str, path: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 404
    assert list(response.json()) == ["error"]


def test_the_example_runs(service: Service) -> None:
    command = [sys.executable, "examples/open_inference.py", service.address[7:]]
    pictures = ["examples/7.png", "examples/7.png"]
    done = subprocess.run([*command, *pictures], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(", size ")[0] for line in lines] == [
        "examples/7.png: label 7, robust"
    ] * 2


def mlserver(name: str, datatype: str, shape: list[int], data: list[Any], kind: str) -> Any:
    """A request as MLServer's types serialise it, with null for everything that is not given."""
    given = {"content_type": kind, "headers": None}
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": given, "data": data}
    return {"id": None, "parameters": given, "inputs": [tensor], "outputs": None}


def test_mlservers_codecs_are_understood(
    client: httpx.Client, seven: bytes, pixels: np.ndarray
) -> None:
    text = base64.b64encode(seven).decode()
    values = pixels.flatten().tolist()
    bodies = [
        mlserver("IMAGE", "UINT8", list(pixels.shape), values, "np"),
        mlserver("IMAGE_BYTES", "BYTES", [1, 1], [text], "base64"),
        mlserver("IMAGE_BYTES", "BYTES", [1], [text], "base64"),
    ]
    for body in bodies:
        response = client.post(INFER, json=body)
        assert response.status_code == 200, response.text
        outputs = {one["name"]: one["data"] for one in response.json()["outputs"]}
        assert outputs["LABEL"] == [7]
        assert "id" not in response.json()


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("binary", [True, False])
def test_several_pictures_are_a_batch_in_both_shapes(
    service: Service, seven: bytes, shape: list[int], binary: bool
) -> None:
    blank = b"P5 28 28 255\n" + bytes(784)
    contents = [seven, blank] if binary else [base64.b64encode(seven), base64.b64encode(blank)]
    tensor = triton.InferInput("IMAGE_BYTES", shape, "BYTES")
    values = np.array(contents, dtype=object).reshape(shape)
    tensor.set_data_from_numpy(values, binary_data=binary)
    with triton.InferenceServerClient(service.address[7:]) as stock:
        answered = stock.infer("mnist-cnn", [tensor])
    labels, sizes = answered.as_numpy("LABEL"), answered.as_numpy("SIZE")
    assert labels.shape == sizes.shape == (2, 1)
    assert labels[0] == 7


def test_null_means_not_given(client: httpx.Client, pixels: np.ndarray) -> None:
    body = mlserver("IMAGE", "UINT8", list(pixels.shape), pixels.flatten().tolist(), "np")
    names = ("target", "norm", "confidence", "max_draws", "allow", "timeout", "priority")
    body["parameters"] = dict.fromkeys((*names, "binary_data_output", "classification"))
    body["outputs"] = [{"name": "SIZE", "parameters": {"binary_data": None, "content_type": "np"}}]
    response = client.post(INFER, json=body)
    assert response.status_code == 200, response.text
    [size] = response.json()["outputs"]
    assert size["data"][0] > 0
    body["outputs"] = [{"name": "LABEL", "parameters": None}, {"name": "DRAWS"}]
    assert len(client.post(INFER, json=body).json()["outputs"]) == 2
    for name in ("inputs", "name", "datatype", "shape", "data"):
        part = body if name == "inputs" else body["inputs"][0]
        kept, part[name] = part[name], None
        response = client.post(INFER, json=body)
        assert response.status_code == 400
        assert name in response.json()["error"]
        part[name] = kept


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("models/mnist-cnn/config", "/v2/models/NAME"),
        ("models/mnist-cnn/versions/1/stats", "/metrics"),
        ("models/mnist-cnn/stats", "/metrics"),
        ("models/stats", "/metrics"),
        ("models/nothing/stats", "/metrics"),
        ("models/mnist-cnn/versions/1/config", "/v2/models/NAME"),
        ("models/mnist-cnn/trace/setting", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("models/mnist-cnn/generate_stream", "/predict/stream"),
        ("models", "/v2/repository/index"),
        ("systemsharedmemory/status", "shared memory"),
        ("logging", "PIXELDP_LOG_LEVEL"),
    ],
)
def test_extensions_that_only_triton_has(client: httpx.Client, path: str, instead: str) -> None:
    answered = client.get(f"/v2/{path}")
    assert answered.status_code == 404
    assert "binary_tensor_data and model_repository" in answered.json()["error"]
    assert instead in answered.json()["error"]
