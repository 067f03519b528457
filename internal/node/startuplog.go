package node

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// fullPath is path from the root, for whoever does not know where this was started.
func fullPath(path string) string {
	if full, err := filepath.Abs(path); err == nil && path != "" {
		return full
	}
	return path
}

// logStart logs where everything is that this process uses: what somebody who
// looks for a configuration that is not read, or a disk that fills, wants to know
// first.
func (n *node) logStart(admin []net.Listener, commands bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var at, metrics []string
	for i, f := range n.listeners {
		l := &n.current.settings[i]
		who := string(l.Callers)
		if l.Organisation != "" {
			who += " as " + l.Organisation
		}
		for _, s := range f.sockets {
			at = append(at, fmt.Sprintf("%s (%s)", s, who))
		}
	}
	for _, l := range admin {
		metrics = append(metrics, l.Addr().String())
	}
	socket := "none"
	if commands {
		socket = n.started.Admin.Socket
	}
	n.log.Info("berth started", "version", n.version,
		"config", cmp.Or(fullPath(n.started.Files[""].Path), "none, the defaults"),
		"organisations", cmp.Or(dropInFolder(n.started), "none"),
		"cache", n.started.Cache.Directory,
		"state", filepath.Dir(keyFile(n.started.Cache.Directory)),
		"socket", socket,
		"admin", cmp.Or(strings.Join(metrics, ", "), "none"),
		"listeners", strings.Join(at, ", "))
}
