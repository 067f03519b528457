package admin

// Waiting is how many requests of one organisation wait for their turn at a registry:
// limits.rate, upstream.connections, or what the registry takes from one address.
type Waiting struct {
	// Organisation is Nobody for callers without one.
	Organisation string `json:"organisation"`
	// Host is the registry's, with its port.
	Host     string `json:"host"`
	Requests int    `json:"requests"`
}
