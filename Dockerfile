# The service and the shipped models. TORCH_BACKEND chooses the build of PyTorch:
#   docker build -t pixeldp .                                    for CPUs
#   docker build -t pixeldp --build-arg TORCH_BACKEND=cu130 .    for CUDA 13, with its libraries
# If it is empty, PyTorch comes from the configured package index like everything else (UV_INDEX_URL).
# Every installed file has a digest in locks, and the base image below is named by its digest.
FROM python:3.12.14-slim-bookworm@sha256:0f5b26b9518d002b6173fd61daad821fa340635ebfec5bba471013f9ca114579 AS build
# Any user may run what is installed, and nothing is compiled to bytecode on a read-only root.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    UV_REQUIRE_HASHES=1 VIRTUAL_ENV=/opt/pixeldp
WORKDIR /src
COPY locks locks
# uv knows where PyTorch's builds are published; pip would have to be told.
RUN pip install --no-cache-dir --require-hashes --no-deps -r locks/lock.txt && uv venv "$VIRTUAL_ENV"
ARG TORCH_BACKEND=cpu
# PyTorch first, and alone: it is the largest layer and changes least. Builds for CUDA need its libraries.
RUN uv pip install --no-deps ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
        -r "locks/torch${TORCH_BACKEND:+-$TORCH_BACKEND}.txt" \
        -r "locks/torchvision${TORCH_BACKEND:+-$TORCH_BACKEND}.txt" \
    && if grep -qE '^Requires-Dist: (cuda|nvidia|triton)' \
        "$VIRTUAL_ENV"/lib/python*/site-packages/torch-*.dist-info/METADATA; \
    then uv pip install --no-deps -r locks/cuda.txt; fi
# docker build -t pixeldp-ray --build-arg RAY=true . has Ray Serve, too.
ARG RAY=
RUN uv pip install --no-deps -r locks/serve.txt -r locks/tracing.txt -r locks/openvino.txt \
        ${RAY:+-r locks/ray.txt}
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN UV_REQUIRE_HASHES=0 uv pip install --no-deps --no-build-isolation .

FROM python:3.12.14-slim-bookworm@sha256:0f5b26b9518d002b6173fd61daad821fa340635ebfec5bba471013f9ca114579
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pixeldp
COPY --from=build /opt/pixeldp /opt/pixeldp
# The image has no compiler, so networks are not compiled. :: includes IPv4.
ENV PATH=/opt/pixeldp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIXELDP_HOST=:: \
    PIXELDP_PORT=8000 \
    PIXELDP_COMPILE=false
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["pixeldp", "health"]
ENTRYPOINT ["pixeldp"]
CMD ["serve"]
