package ocitest

import (
	"fmt"
	"testing"
)

// printsNumbers shows what it holds by one verb alone.
type printsNumbers struct{ b []byte }

func (p printsNumbers) Format(f fmt.State, verb rune) {
	if verb == 'd' {
		_, _ = fmt.Fprintf(f, "%d", p.b)
	}
}

func TestPrinted_EveryFormIsSeen(t *testing.T) {
	const canary = "c4n4ry"
	for name, v := range map[string]any{"text": canary, "in a struct": struct{ s string }{canary}, "bytes": []byte(canary), "numbers": printsNumbers{[]byte(canary)}} {
		if len(shownForms(v, canary)) == 0 {
			t.Errorf("%s: nothing is seen", name)
		}
	}
	if forms := shownForms("another", canary); len(forms) > 0 {
		t.Errorf("%q are seen where there is nothing", forms)
	}
}
