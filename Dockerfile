# The pipeline as an image (target `pipeline`, the last one), and the dashboard
# (target `dashboard`). Any Debian-like base with Python 3.10 to 3.14 and its venv
# package will do:
#
#   docker build --tag datasync-pipeline .
#   docker build --tag datasync-dashboard --target dashboard .
#   docker build --build-arg BASE_IMAGE=python:3.11-slim .
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8
# A fixed number, so that the owner of a volume is known before it is mounted.
RUN groupadd --gid 10001 datasync && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin datasync
WORKDIR /app


FROM base AS build
COPY LICENSE meltano.yml ./
COPY requirements ./requirements
COPY plugins ./plugins
COPY scripts ./scripts
COPY docker ./docker
COPY tap-datasync ./tap-datasync
COPY target-config ./target-config
COPY ingestion ./ingestion
COPY sandbox ./sandbox
COPY monitoring ./monitoring
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem sh docker/install.sh pipeline


FROM base AS build-dashboard
COPY requirements/build.txt requirements/dashboard.txt ./requirements/
COPY docker/install.sh ./docker/
COPY monitoring ./monitoring
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem sh docker/install.sh dashboard


FROM base AS dashboard
COPY --from=build-dashboard /app/.venv /app/.venv
ENV HOME=/tmp \
    DB_PORT=5432
USER 10001:10001
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
    CMD ["/app/.venv/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
# Loopback would be the container's own; who can reach the port is said where it is published.
ENTRYPOINT ["/app/.venv/bin/datasync-monitor"]
CMD ["web", "--host", "0.0.0.0", "--port", "8501"]


FROM base AS pipeline
COPY --from=build /app /app
# All that a run writes, one place: lock, logs, Meltano's database with the state,
# the bulk lane's files. Everything else may be read-only; .meltano/run holds the
# settings of a run, the key among them, so it belongs into memory (a tmpfs).
RUN mkdir -p /app/.run /app/.meltano/run && \
    chmod 755 /app/.meltano && \
    chown -R 10001:10001 /app/.run /app/.meltano/run && \
    chmod 700 /app/.run /app/.meltano/run
ENV HOME=/tmp \
    MELTANO_DATABASE_URI=sqlite:////app/.run/meltano.db \
    DB_PORT=5432
USER 10001:10001
VOLUME /app/.run
# Long enough for a start; a walk that waits for the API's limit counts as healthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["/app/.venv/bin/datasync-monitor", "check"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/docker/entrypoint.sh"]
