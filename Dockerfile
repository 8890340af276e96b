# The service and the shipped model. TORCH_BACKEND says which build of PyTorch goes in:
#   docker build -t pixeldp .                                    for CPUs
#   docker build -t pixeldp --build-arg TORCH_BACKEND=cu130 .    for CUDA 13, whose libraries it brings
# Empty, PyTorch comes from the configured package index like everything else (a mirror: UV_INDEX_URL).
FROM python:3.12-slim-bookworm AS build
# Any user may run what is installed, and nothing is compiled to bytecode on a read-only root.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/pixeldp
# uv knows where PyTorch's builds are published; pip would have to be told.
RUN pip install --no-cache-dir uv==0.13.8 && uv venv "$VIRTUAL_ENV"
WORKDIR /src
COPY constraints.txt ./
ARG TORCH_BACKEND=cpu
# PyTorch first, and alone: it is the largest layer and changes least.
RUN uv pip install ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
    --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN uv pip install ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
    --constraint constraints.txt '.[tracing]'

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pixeldp
COPY --from=build /opt/pixeldp /opt/pixeldp
# There is no compiler in here, so networks run as they are written.
ENV PATH=/opt/pixeldp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIXELDP_HOST=0.0.0.0 \
    PIXELDP_PORT=8000 \
    PIXELDP_COMPILE=false
USER 10001
EXPOSE 8000
# Straight, whatever proxy the container's environment names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; p = os.environ['PIXELDP_PORT']; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + (p if p.isdecimal() else '8000') + '/health/ready', timeout=2)"]
ENTRYPOINT ["pixeldp"]
CMD ["serve"]
