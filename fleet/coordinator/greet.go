package coordinator

import (
	"context"

	"berth/fleet/seal"
)

// greetings is the object under which nodes say which fleet key they have.
func greetings() Object { return Object{Name: "greetings", Everywhere: true} }

// Greet shows other nodes the fingerprint of this one's fleet key.
func (c *Coordinator) Greet(ctx context.Context, fingerprint string) error {
	return c.Publish(ctx, greetings(), Record{State: Whole, Size: int64(len(fingerprint)), Body: []byte(fingerprint)})
}

// Greetings are the fingerprints that the last few nodes have shown, by their names.
func (c *Coordinator) Greetings(ctx context.Context) (map[string]string, error) {
	found, err := c.Look(ctx, greetings())
	if err != nil {
		return nil, err
	}
	shown := map[string]string{}
	for _, w := range found.Writers {
		if w.State == Whole && len(w.Body) == seal.FingerprintSize {
			shown[w.Node] = string(w.Body)
		}
	}
	return shown, nil
}
