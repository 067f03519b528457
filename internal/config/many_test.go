package config

import (
	"fmt"
	"testing"
	"time"
)

// A folder with very many drop-ins takes a while in proportion, at the start as
// when all of them change: no cheap way to keep a node from its work.
func TestManyDropIns(t *testing.T) {
	n := newNode(t, tokenListener)
	const many = 5000
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("o%d", i))
		n.write("organisations.d/"+names[i]+".yaml", "grace: 1h\n")
	}
	start := time.Now()
	c := n.load()
	c = c.ReloadOrganisations(names...)
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("%d drop-ins took %v", many, took)
	}
	equal(t, "organisations", len(c.Organisations), many)
}
