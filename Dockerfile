# rkld in a container, for a CPU or an NVIDIA GPU (with NVIDIA's container toolkit). It runs as an ordinary user and needs
# no network: the model is mounted, as are the records and the folder of the runs.
#
#   docker build --tag rkld .
#   docker run --rm --network none --user "$(id -u):$(id -g)" \
#     -v "$PWD/my-model:/model:ro" -v "$PWD/records:/records:ro" -v "$PWD/runs:/app/runs" \
#     rkld unlearn /model --forget /records/jane.jsonl --subject "Jane Doe" --out runs/jane
#
# For a GPU add --gpus all. An audit that was interrupted goes on only with the same cache: -v rkld-cache:/cache. The one
# command that needs a network, once, is rkld demo, for its model.

# The Python and the packages (constraints.txt) with which everything is tested. A tag may be given to another image one
# day; by digest it is always the same one: --build-arg PYTHON=3.11.14-slim-bookworm@sha256:…
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install -c constraints.txt build hatchling \
    && /opt/build/bin/python -m build --no-isolation --wheel --outdir /dist . \
    && python -m venv /opt/rkld \
    && /opt/rkld/bin/pip install -c constraints.txt "$(ls /dist/*.whl)[data,demo]"

FROM python:${PYTHON}
RUN groupadd --gid 10001 rkld \
    && useradd --uid 10001 --gid rkld --no-create-home --home-dir /cache rkld \
    && install --directory --owner rkld --group rkld /app /app/runs \
    && install --directory --mode 1777 /cache
COPY --from=build /opt/rkld /opt/rkld
# Nothing is asked of the model hub. Caches lie where any user may write: docker run --user gives one without a home.
ENV PATH=/opt/rkld/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 \
    HOME=/cache USER=rkld XDG_CACHE_HOME=/cache TRITON_CACHE_DIR=/cache/triton
USER 10001:10001
WORKDIR /app
ENTRYPOINT ["rkld"]
CMD ["--help"]
