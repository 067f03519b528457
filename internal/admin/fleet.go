package admin

// Fleet is a node's part in a fleet.
type Fleet struct {
	Node string `json:"node"`
	Zone string `json:"zone"`
	// Away are its engines that are not asked now (bucket, coordinator).
	Away []string `json:"away"`
}
