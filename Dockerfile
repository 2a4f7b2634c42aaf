# docker build -t flowcei . && docker run --rm -v "$PWD:/data" flowcei sample --momenta events.csv
# Where TORCH_INDEX names PyTorch's index of CPU builds the image is gigabytes smaller: its install page has it.
FROM python:3.12-slim
ARG TORCH_INDEX=""
COPY . /flowcei
# torch first, at its pinned version: a range would take another one.
RUN pip install --no-cache-dir "$(grep '^torch==' /flowcei/constraints.txt)" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
 && pip install --no-cache-dir /flowcei -c /flowcei/constraints.txt
WORKDIR /data
ENTRYPOINT ["flowcei"]
