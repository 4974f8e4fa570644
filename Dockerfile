# The image that "make images" writes, for those who have a container engine:
#   docker build --build-arg VERSION=v1.2.3 --build-arg COMMIT=$(git rev-parse HEAD) -t terway:v1.2.3 .
# The files are made by the same program, from the same pinned packages.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=
WORKDIR /src
COPY . .
RUN go run ./internal/release rootfs --arch=$TARGETARCH --version=$VERSION --commit=$COMMIT /rootfs

FROM scratch
ARG VERSION=dev
ARG COMMIT=
COPY --from=build /rootfs /
LABEL org.opencontainers.image.title="Terway"
LABEL org.opencontainers.image.description="Pods with VPC addresses on Alibaba Cloud"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version=$VERSION
LABEL org.opencontainers.image.revision=$COMMIT
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /
ENTRYPOINT ["/usr/bin/terwayd"]
