# docker build --build-arg VERSION=$(git describe --tags --always) -t berth .
# docker run -d --name berth --restart always --network host -v berth-cache:/cache -v /etc/berth:/etc/berth:ro berth
#
# --network host because clients reach berth on the node's own loopback. Without it,
# doc/install.md says what -p needs.

FROM golang:1.26-bookworm AS build
ARG VERSION=
WORKDIR /src
COPY go.mod go.sum ./
COPY internal/conntrack/go.mod internal/conntrack/
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags="-s -w -X main.release=$VERSION" -o /out/berth ./cmd/berth \
 && mkdir -p /out/own/cache /out/own/run/berth && chmod 0700 /out/own/cache

FROM scratch
# A number, so that Kubernetes' runAsNonRoot can tell; nobody else's on Debian.
ARG UID=64646
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/berth /usr/local/bin/berth
# A new named volume takes its owner and mode from here; a folder of the host does not.
# The content of a folder keeps its modes; the folder itself does not in every builder.
COPY --from=build --chown=${UID}:${UID} /out/own/ /
USER ${UID}:${UID}
ENV CACHE_DIRECTORY=/cache RUNTIME_DIRECTORY=/run/berth
VOLUME /cache
EXPOSE 5000 5001
# Over the commands' socket; there is no shell here.
HEALTHCHECK --interval=10s --timeout=6s --start-period=5s CMD ["/usr/local/bin/berth", "status", "--ready"]
ENTRYPOINT ["/usr/local/bin/berth"]
CMD ["serve"]
