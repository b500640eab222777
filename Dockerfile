# syntax=docker/dockerfile:1
# secretproxy as a container: no shell is needed, nothing is written but what the configuration names, no root.
FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/run.lock requirements/run.lock
RUN python -m venv /opt/secretproxy && /opt/secretproxy/bin/pip install -r requirements/run.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
# The hot path is compiled to C, and the build fails where it cannot be.
RUN SECRETPROXY_COMPILE=1 /opt/secretproxy/bin/pip install --no-deps .

FROM python:3.13-slim-bookworm
# It contains pglast, which is GPL-3.0-or-later: who gives the image away gives its source too.
LABEL org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin secretproxy
COPY --from=build /opt/secretproxy /opt/secretproxy
# The key file is named here, not held.
# hadolint ignore=DL3064
ENV PATH=/opt/secretproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SECRETPROXY_LISTEN_HOST=0.0.0.0 \
    SECRETPROXY_HEALTH_HOST=0.0.0.0 \
    SECRETPROXY_HEALTH_PORT=8432 \
    SECRETPROXY_LOG_FORMAT=json \
    SECRETPROXY_TESTIMONY_KEY_FILE=/run/secretproxy/key
USER 10001
EXPOSE 6432 8432
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8432/healthz', timeout=2)"]
ENTRYPOINT ["secretproxy"]
CMD ["run"]
