package upstream

import (
	"fmt"
	"testing"
	"time"

	"berth/auth/credential"
	"berth/oci"
)

// What one organisation makes the node remember about a registry pushes out nothing of
// another's.
func TestShare_OfWhatIsRemembered(t *testing.T) {
	const many = 5000
	now := time.Now()
	stats := newHostStats()
	stats.answered("acme", hostKey{"cdn.test", opBlob}, time.Minute)
	settled := newSettlement()
	mine := &credential.Credential{Organisation: "acme", Version: "acme's"}
	settled.took(mine, &call{repo: "acme/app"})
	settled.found(mine, true, now)
	types := inMemoryRegistry(t, ok.RoundTrip).types
	types.Add("acme", "sha256:aa", "an index")
	for i := range many {
		stats.answered("globex", hostKey{fmt.Sprint("host", i), opBlob}, time.Second)
		theirs := &credential.Credential{Organisation: "globex", Version: fmt.Sprint(i)}
		settled.took(theirs, &call{repo: "globex/app"})
		settled.found(theirs, true, now)
		types.Add("globex", oci.Digest(fmt.Sprint("sha256:", i)), "a manifest")
	}
	if stats.of(hostKey{"cdn.test", opBlob}).header != time.Minute {
		t.Error("how a host answers is forgotten")
	}
	if _, known := settled.known("acme's", now); !known || len(settled.places(mine, &call{repo: "acme/other"})) == 0 {
		t.Error("where a credential was taken is forgotten")
	}
	if _, known := types.Get("sha256:aa"); !known {
		t.Error("the type of a manifest is forgotten")
	}
}
