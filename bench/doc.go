// Command bench measures berth beside other pull-through caches, in front of the
// same registry, on the same machine, in one run:
//
//	go run ./bench                       everything, about half an hour
//	go run ./bench --only manifest-tag --rounds 5 --peers berth,bare
//	go run ./bench --only pull           images fetched by real clients; as root
//	go run ./bench growth                what a warm pull and memory cost as a node grows
//
// It starts a registry of its own (upstream.go), each peer as a process of its
// own, and asks them from here, on the same cores. The peers take turns within
// each run, so that a slow minute of the machine hits all of them. What counts
// are ratios within one run: absolute figures are the machine's.
//
// Peers are berth as it is built for release, the CNCF's registry (distribution)
// from its Go module, nginx with proxy_cache, and "bare": Go's net/http with the
// same files and no logic. "direct" is the registry itself without anything
// between. A peer that cannot be had is named as missing.
package main
