# The pipeline as an image (target `pipeline`, the last one), and the dashboard with the metrics
# exporter (target `dashboard`). Any Debian-like base with Python 3.10 to 3.14 and venv will do:
#
#   docker build --tag datasync-pipeline .
#   docker build --tag datasync-dashboard --target dashboard .
#   docker build --build-arg BASE_IMAGE=python:3.11-slim .
#
# Behind a mirror of the package index, hand over pip's configuration and the certificates; they
# end up in no layer (docker-compose.yml does the same with BUILD_PIP_CONF and BUILD_CA_FILE):
#
#   docker build --secret id=pip.conf,src=pip.conf --secret id=ca.pem,src=ca.pem .
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PATH=/app/.venv/bin:$PATH \
    DATASYNC_CONTAINER=1
# A fixed number: the owner of a volume or a secret is known before it is mounted.
RUN groupadd --gid 10001 datasync && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin datasync
WORKDIR /app


# The installer and the build backend, from the lock. In no image.
FROM base AS tools
COPY docker/install.sh docker/
COPY requirements/lock.txt requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem sh docker/install.sh tools


# What the packages depend on: a layer that stays until a pyproject.toml or the lock changes.
FROM tools AS pipeline-dependencies
COPY requirements/run.in requirements/
COPY tap-datasync/pyproject.toml tap-datasync/
COPY target-config/pyproject.toml target-config/
COPY ingestion/pyproject.toml ingestion/
COPY sandbox/pyproject.toml sandbox/
COPY monitoring/pyproject.toml monitoring/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem sh docker/install.sh dependencies \
    --requirement requirements/run.in --requirement tap-datasync/pyproject.toml \
    --requirement target-config/pyproject.toml --requirement ingestion/pyproject.toml \
    --requirement sandbox/pyproject.toml --requirement monitoring/pyproject.toml


FROM tools AS dashboard-dependencies
COPY monitoring/pyproject.toml monitoring/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem sh docker/install.sh dependencies \
    --requirement monitoring/pyproject.toml --extra web --extra metrics && \
    # Streamlit requires these, and imports them only for what the dashboard does not use: half of
    # the image. tests/monitoring blocks them while it drives the dashboard.
    /opt/tools/bin/uv pip uninstall --quiet --python .venv \
    altair gitdb gitpython numpy pandas pillow pyarrow pydeck smmap


FROM base AS dashboard
COPY --from=dashboard-dependencies /app/.venv .venv
COPY docker/install.sh docker/
COPY monitoring monitoring
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools sh docker/install.sh packages monitoring
USER 10001:10001
EXPOSE 8501 9464
HEALTHCHECK --interval=5s --timeout=10s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
# The addresses inside the container; `ports` or `--publish` decides who reaches them.
ENTRYPOINT ["datasync-monitor"]
CMD ["web", "--host", "0.0.0.0", "--port", "8501"]


FROM base AS pipeline
COPY --from=pipeline-dependencies /app/.venv .venv
# All that a load keeps is in one place, .run: the logs and Meltano's database with the state. The
# rest can be read-only. Meltano writes the settings of a run into its own directory, the API key
# among them, so that one belongs into memory: /tmp as a tmpfs.
ENV MELTANO_DATABASE_URI=sqlite:////app/.run/meltano.db \
    MELTANO_SYS_DIR_ROOT=/tmp/meltano
RUN mkdir --mode=700 .run && chown 10001:10001 .run
COPY LICENSE meltano.yml ./
COPY docker docker
COPY plugins plugins
COPY tap-datasync tap-datasync
COPY target-config target-config
COPY sandbox sandbox
COPY monitoring monitoring
COPY ingestion ingestion
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    sh docker/install.sh packages tap-datasync target-config sandbox monitoring ingestion
USER 10001:10001
# A load that waits for the API's rate limit is healthy. Docker knows 0 and 1 alone.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "datasync-monitor check || exit 1"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sh", "/app/docker/entrypoint.sh"]
