// Package e2e pulls images through berth with the programs that people pull
// with: dockerd with its old and its new image store, containerd, podman,
// skopeo and crane, in front of a real registry, and has a real Prometheus watch
// it. It knows berth as they do, as a program with a port, and imports nothing of
// it.
//
//	go test -tags e2e ./e2e/
//
// Everything runs in temporary folders, on loopback, as root (the daemons mount
// what they unpack). A client that is not installed skips its tests, unless
// E2E_REQUIRE=1 says that it should be there. E2E_TOOLS names a folder with
// the programs that Go builds (registry, crane, containerd and ctr 2, dockerd
// of moby v2), E2E_BERTH a berth to test instead of building one. E2E_DIRECT=1
// leaves berth out, which proves the clients and the machine rather than us.
package e2e
