# earsight with every decoder, its HTTP service and the ONNX export.
#
#   docker build -t earsight .
#   docker run --rm -v "$PWD:/data" earsight check my_sounds
#   docker run --rm -p 8000:8000 -v "$PWD:/data" earsight serve runs/mine/model.safetensors --host 0.0.0.0
#
# --build-arg TORCH_INDEX=URL takes PyTorch from another index, such as that of its wheels without CUDA, 4.6 GB smaller
# (PyTorch's page on installing has the address). docs/install.md says how these steps were tried.
FROM debian:bookworm-slim

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/earsight

ENV PATH=/opt/earsight/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /usr/src/earsight
ARG TORCH_INDEX=""
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch torchvision; \
    fi

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --constraint constraints.txt ".[formats,serve,onnx]"

# Spectrograms and compiled kernels are kept in the cache: mount a volume there to keep them longer than a container.
RUN useradd --create-home --uid 1000 ear && mkdir /data /cache && chown ear /data /cache
USER 1000
ENV EARSIGHT_CACHE=/cache
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["earsight"]
CMD ["--help"]
