package oci

import (
	"fmt"
	"strings"
	"testing"
)

func TestPlatformRuns(t *testing.T) {
	for _, c := range []struct {
		on, image string
		want      bool
	}{
		{"linux/amd64", "linux/amd64", true},
		{"linux/amd64", "linux/386", true},
		{"linux/386", "linux/amd64", false},
		{"linux/arm64", "linux/arm/v7", true},
		{"linux/arm", "linux/arm64", false},
		{"linux/amd64", "windows/amd64", false},
		{"linux/amd64", "linux/s390x", false},
	} {
		on, _ := ParsePlatform(c.on)
		image, _ := ParsePlatform(c.image)
		if got := on.Runs(image); got != c.want {
			t.Errorf("%s on %s: %v", c.image, c.on, got)
		}
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "Linux/amd64", "linux/x y", "linux/" + strings.Repeat("a", 25)} {
		if p, ok := ParsePlatform(bad); ok {
			t.Errorf("%q is %v", bad, p)
		}
	}
}

func TestPlatformsIn(t *testing.T) {
	entry := func(p string) string { return `{"digest":"sha256:x","platform":` + p + `}` }
	image := entry(`{"os":"linux","architecture":"arm64","variant":"v8"}`)
	many := make([]string, maxPlatforms+1)
	for i := range many {
		many[i] = entry(fmt.Sprintf(`{"os":"linux","architecture":"a%d"}`, i))
	}
	for index, want := range map[string]string{
		image + "," + image: "linux/arm64",
		image + "," + entry(`{"os":"unknown","architecture":"unknown"}`):                  "linux/arm64",
		image + "," + entry(`{"os":"windows","architecture":"amd64"}`):                    "linux/arm64, windows/amd64",
		image + `,{"digest":"sha256:y"}`:                                                  "",
		image + "," + entry(`{"os":"linux"}`):                                             "",
		image + "," + entry(`{"os":"lin\u001bux","architecture":"x"}`):                    "",
		`{"mediaType":"` + MediaTypeIndex + `","platform":{"os":"a","architecture":"b"}}`: "",
		strings.Join(many, ","):                                                           "",
		strings.Join(many[:13], ","):                                                      "linux/a0, linux/a1, linux/a2, linux/a3, linux/a4, linux/a5, linux/a6, linux/a7, linux/a8, linux/a9, linux/a10, linux/a11, and more",
		"":                                                                                "",
		"7":                                                                               "",
	} {
		if got := NamePlatforms(PlatformsIn([]byte(`{"manifests":[` + index + `]}`))); got != want {
			t.Errorf("%.200s: %q, want %q", index, got, want)
		}
	}
}
