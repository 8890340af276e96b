# Serves the shipped model. Which build of PyTorch goes in is chosen by the index it comes from:
#   docker build --build-arg TORCH_INDEX_URL=<index of the CPU or CUDA build> -t pixeldp .
# Without it pip takes the default index's build, which on Linux brings CUDA along.
FROM python:3.12-slim AS build
ARG TORCH_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/pixeldp
ENV PATH=/opt/pixeldp/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# PyTorch first, and alone: it is the largest layer and changes least.
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
    $(grep -E '^(torch|torchvision)==' constraints.txt)
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN pip install --constraint constraints.txt .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home pixeldp
COPY --from=build /opt/pixeldp /opt/pixeldp
ENV PATH=/opt/pixeldp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIXELDP_HOST=0.0.0.0
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["pixeldp"]
CMD ["serve"]
