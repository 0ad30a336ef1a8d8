# The service with its embedded model inside; needs no network at run time.
#   docker build -t dragoman .
#   docker build -t dragoman:cuda --build-arg TORCH_VARIANT=cuda .
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# cpu: PyTorch's own CPU build. cuda: the build on PyPI, with several GB of NVIDIA libraries.
ARG TORCH_VARIANT=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/dragoman/bin:$PATH
RUN python -m venv /opt/dragoman

# Dependencies come before the source, so that a change of the source does not install them anew.
WORKDIR /src
COPY pyproject.toml ./
# Redis' client is small, and lets several containers share their limits.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['redis'], sep='\n')" \
      > requirements.txt && \
    grep '^torch' requirements.txt > torch.txt
RUN case "$TORCH_VARIANT" in \
      cpu) pip install --index-url "$TORCH_CPU_INDEX" -r torch.txt ;; \
      cuda) pip install -r torch.txt ;; \
      *) echo "TORCH_VARIANT must be cpu or cuda, got $TORCH_VARIANT" >&2; exit 1 ;; \
    esac
RUN pip install -r requirements.txt

COPY README.md LICENSE ./
COPY model model
COPY app app
RUN pip install --no-deps .
# A build without a working model must fail here, not in production. The decoder's machine code stays in the image;
# on another kind of processor it is compiled anew.
ENV XDG_CACHE_HOME=/opt/dragoman/cache
RUN cd / && dragoman translate --source fr --target en "Bonjour." && chown -R 10001 "$XDG_CACHE_HOME"

FROM python:${PYTHON_VERSION}-slim
# A volume that is mounted at /data gets the folder's owner: set DRAGOMAN_DATA_DIRECTORY=/data for keys and glossaries.
RUN useradd --system --uid 10001 --no-create-home --home-dir / --shell /usr/sbin/nologin dragoman && \
    install -d -o 10001 -g 10001 -m 700 /data
COPY --from=build /opt/dragoman /opt/dragoman
ENV XDG_CACHE_HOME=/opt/dragoman/cache
ENV PATH=/opt/dragoman/bin:$PATH PYTHONUNBUFFERED=1 DRAGOMAN_HOST=0.0.0.0 DRAGOMAN_PORT=8000
# By number, so that an orchestrator can tell that it is not root.
USER 10001
WORKDIR /
EXPOSE 8000
# The start period covers loading and warming up the model; proxies of the environment are not asked.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['DRAGOMAN_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["dragoman"]
CMD ["serve"]
