package oci

import "testing"

// Whatever an index holds, what is shown of it is short and plain.
func FuzzPlatformsIn(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"arm64"}}]}`))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"lin\u001bux","architecture":"x"}}]}`))
	f.Add([]byte(`{"manifests":[{"platform":null},7]}`))
	f.Fuzz(func(t *testing.T, index []byte) {
		all := PlatformsIn(index)
		if len(all) > maxPlatforms {
			t.Errorf("%d platforms", len(all))
		}
		for _, p := range all {
			if again, ok := ParsePlatform(p.String()); !ok || again != p {
				t.Errorf("%q", p)
			}
		}
		if text := NamePlatforms(all); OneLine(text, 700) != text {
			t.Errorf("%q", text)
		}
	})
}
