# One image for every deployable; its arguments choose one: `edge serve`, `services.auth migrate`, …
#
#   make image                                               builds the default target, without torch
#   docker build --target sentence-transformers .            builds the one with the reference encoder
#
# Everything is installed by `python -m dev.tools.deployment`, from hashed locks; a test runs the same commands and starts
# every deployable from what they made. An operator who pins the base by digest gives PYTHON_IMAGE another value.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# ------------------------------------------------------------------------------------------------------------- building

FROM ${PYTHON_IMAGE} AS tools
# The cache of downloads is a mount, which no hard link can leave.
ENV UV_LINK_MODE=copy PYTHONUNBUFFERED=1
WORKDIR /build
COPY requirements/ requirements/
COPY dev/__init__.py dev/__init__.py
COPY dev/tools/__init__.py dev/tools/environment.py dev/tools/deployment.py dev/tools/

FROM tools AS wheel
COPY pyproject.toml README.md ./
COPY services/ services/
COPY edge/ edge/
COPY generated/ generated/
RUN --mount=type=cache,target=/root/.cache python -m dev.tools.deployment wheel /wheel

FROM tools AS libraries
RUN --mount=type=cache,target=/root/.cache python -m dev.tools.deployment libraries image /opt/parley

FROM libraries AS installed
COPY --from=wheel /wheel /wheel
RUN python -m dev.tools.deployment project /wheel /opt/parley

FROM tools AS libraries-sentence-transformers
# PyPI's torch for Linux is the CUDA build, 5 GB, and the lock has its hashes; `cpu` takes the small one from PyTorch's own
# index, in the same version, without a hash.
ARG UV_TORCH_BACKEND=""
RUN --mount=type=cache,target=/root/.cache \
  UV_TORCH_BACKEND="${UV_TORCH_BACKEND}" \
  python -m dev.tools.deployment libraries image-sentence-transformers /opt/parley

FROM libraries-sentence-transformers AS installed-sentence-transformers
COPY --from=wheel /wheel /wheel
RUN python -m dev.tools.deployment project /wheel /opt/parley

# -------------------------------------------------------------------------------------------------------------- running

FROM ${PYTHON_IMAGE} AS runtime
ARG PYTHON_IMAGE
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=""
LABEL org.opencontainers.image.title="Parley" \
  org.opencontainers.image.description="Self-hosted conversation platform for large language models" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.created="${CREATED}" \
  org.opencontainers.image.source="${SOURCE}" \
  org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# Python compiles nothing and imports nothing from the working directory: the root may be read-only, and whatever lies in
# a mounted folder stays data. Inside a container the loopback address would be reachable by nobody; what else may reach
# these ports is for the network policy to say.
ENV PATH=/opt/parley/bin:/usr/local/bin:/usr/bin:/bin \
  HOME=/tmp \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONSAFEPATH=1 \
  PYTHONUNBUFFERED=1 \
  PARLEY_HTTP_LISTEN=0.0.0.0:8080 \
  PARLEY_GRPC_LISTEN=0.0.0.0:50051 \
  PARLEY_DEBUG_LISTEN=0.0.0.0:9090
EXPOSE 8080 50051 9090
# The only path that is written to: large uploads on their way through the edge.
VOLUME ["/tmp"]
WORKDIR /
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
# Every deployable drains when it gets it. No shell stands between, which would keep it for itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m"]
CMD ["edge", "serve"]

FROM runtime AS sentence-transformers
COPY --from=installed-sentence-transformers /opt/parley /opt/parley

# The last one is what a build without a target makes.
FROM runtime AS parley
COPY --from=installed /opt/parley /opt/parley
