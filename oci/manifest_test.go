package oci

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const hex64 = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestManifest_Type(t *testing.T) {
	for _, c := range []struct {
		doc, want string
		err       error
	}{
		{`{"manifests":[]}`, MediaTypeIndex, nil},
		{`{"layers":[]}`, MediaTypeManifest, nil},
		{`{"config":{}}`, MediaTypeManifest, nil},
		{` {"mediaType" : "` + MediaTypeDockerManifest + `; charset=utf-8", "config" : { }, "layers" : [ ] } `, MediaTypeDockerManifest, nil},
		{`{"mediaType":"` + MediaTypeIndex + `"}`, MediaTypeIndex, nil},
		{`{"mediaType":"` + MediaTypeIndex + `","manifests":null}`, MediaTypeIndex, nil},
		{`{"mediaType":"` + MediaTypeArtifact + `","blobs":[]}`, MediaTypeArtifact, nil},
		{`{"mediaType":"application/vnd.acme.thing.v1+json","layers":"many"}`, "application/vnd.acme.thing.v1+json", nil},
		{`{"manifests":[],"annotations":{"a":"` + "\xff" + `"}}`, MediaTypeIndex, nil},

		// What is null is not there.
		{`{"manifests":null,"layers":[],"config":{}}`, MediaTypeManifest, nil},
		{`{"mediaType":"` + MediaTypeManifest + `","manifests":null,"layers":[],"config":{}}`, MediaTypeManifest, nil},
		{`{"manifests":[],"config":null,"layers":null}`, MediaTypeIndex, nil},
		{`{"manifests":null,"layers":null}`, "", ErrNoManifest},

		// Docker's own, without a media type.
		{`{"schemaVersion":2,"config":{"mediaType":"` + mediaTypeDockerConfig + `"},"layers":[]}`, MediaTypeDockerManifest, nil},
		{`{"schemaVersion":2,"manifests":[{"mediaType":"` + MediaTypeDockerManifest + `"}]}`, MediaTypeDockerList, nil},
		{`{"schemaVersion":2,"manifests":[{"mediaType":"` + MediaTypeDockerManifest + `"},{"mediaType":"` + MediaTypeManifest + `"}]}`, MediaTypeIndex, nil},

		// containerd refuses these too (validateMediaType).
		{`{"mediaType":"` + MediaTypeIndex + `","layers":[]}`, "", ErrWrongType},
		{`{"mediaType":"` + MediaTypeDockerManifest + `","manifests":[]}`, "", ErrWrongType},

		// Readers differ about these.
		{`{"manifests":[],"manifests":[]}`, "", ErrAmbiguous},
		{`{"mediATYpe":"0"}`, "", ErrAmbiguous},
		{`{"layers":[],"Manifests":[]}`, "", ErrAmbiguous},
		{`{"layers":[],"manifestſ":[]}`, "", ErrAmbiguous},
		{`{"layers":[{"digest":"` + hex64 + `","digest":"` + hex64 + `"}]}`, "", ErrAmbiguous},
		{`{"layers":[],"annotations":{"a":"1","a":"2"}}`, "", ErrAmbiguous},
		{`{"layers":[{"digest":"` + hex64 + `","Digest":"sha256:b"}]}`, "", errBadDescriptor},
		{`{"manifests":[{"platform":{"os":"linux","OS":"windows"}}]}`, "", errBadDescriptor},

		// What is both is neither.
		{`{"manifests":[],"layers":[]}`, "", ErrTwoFaced},
		{`{"manifests":[],"config":{}}`, "", ErrTwoFaced},
		{`{"Manifests":[],"LAYERS":[]}`, "", ErrAmbiguous},

		{``, "", ErrNotJSON},
		{strings.Repeat(`{"a":`, 100_000), "", ErrNotJSON},
		{`{"layers":[{"size":"12"}]}`, "", errBadDescriptor},
		{`{"layers":{}}`, "", errBadDescriptor},
		{`{"schemaVersion":1,"fsLayers":[],"signatures":[]}`, "", ErrSchema1},
		{`{"schemaVersion":2}`, "", ErrNoManifest},
		{`{"mediaType":"text/html","layers":[]}`, "", errUnknownType},
		{`{"mediaType":"application/` + strings.Repeat("x", 200) + `","layers":[]}`, "", errUnknownType},
		{`{"mediaType":7,"layers":[]}`, "", ErrNotJSON},
		{`{"layers":[]} {}`, "", ErrNotJSON},
		{"\xef\xbb\xbf" + `{"layers":[]}`, "", ErrNotJSON},
		{`{"layers":[],"layers":[{}]}`, "", ErrAmbiguous},
		{`{"Layers":[],"MANIFESTS":[]}`, "", ErrAmbiguous},
		{`[]`, "", ErrNotJSON},
		{`<html>`, "", ErrNotJSON},
		{``, "", ErrNotJSON},
		{`null`, "", ErrNoManifest},
		{strings.Repeat(`{"a":`, 100_000), "", ErrNotJSON},
	} {
		m, err := ParseManifest([]byte(c.doc))
		if !errors.Is(err, c.err) || err == nil && m.MediaType != c.want {
			t.Errorf("%.120s: %+v, %v; want %q, %v", c.doc, m, err, c.want, c.err)
		}
		if (m == nil) != (err != nil) {
			t.Errorf("%.120s: %+v and %v", c.doc, m, err)
		}
	}
}

func TestManifest_Entries(t *testing.T) {
	m, err := ParseManifest([]byte(`{"manifests":[{"mediaType":"m","digest":"` + hex64 + `","size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},{}]}`))
	if err != nil || len(m.Manifests) != 2 || m.Blobs() != nil {
		t.Fatalf("%+v, %v", m, err)
	}
	e := m.Manifests[0]
	if p, ok := e.on(); !ok || p != (Platform{"linux", "arm64"}) || e.Digest != hex64 || e.Size != 7 || e.MediaType != "m" {
		t.Errorf("%+v", e)
	}
	if p, ok := m.Manifests[1].on(); ok {
		t.Errorf("nothing runs on %v", p)
	}
	m, err = ParseManifest([]byte(`{"config":{"digest":"c"},"layers":[{"digest":"1","urls":["https://a.example"]},{"digest":"2"}]}`))
	if err != nil || len(m.Blobs()) != 3 || m.Blobs()[0].URLs == nil || m.Blobs()[2].Digest != "c" || m.Index() {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestManifest_ChoosesThePlatform(t *testing.T) {
	on := func(d, os, arch string) (e Entry) {
		if err := json.Unmarshal([]byte(`{"digest":"`+d+`","platform":{"os":"`+os+`","architecture":"`+arch+`"}}`), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	all := []Entry{{Digest: "none"}, on("a", "unknown", "unknown"), on("386", "linux", "386"), on("amd64", "linux", "amd64"), on("bad", "LINUX", "amd64"), on("arm", "linux", "arm"), on("again", "linux", "arm")}
	for p, want := range map[Platform]Digest{{"linux", "amd64"}: "amd64", {"linux", "386"}: "386", {"linux", "arm64"}: "arm", {"windows", "amd64"}: ""} {
		if d, _ := ChoosePlatform(all, p); d != want {
			t.Errorf("%s: %q, want %q", p, d, want)
		}
	}
	if _, found := ChoosePlatform(all, Platform{"windows", "amd64"}); NamePlatforms(found) != "linux/386, linux/amd64, linux/arm" {
		t.Errorf("found %v", found)
	}
}

// Whatever is taken for a manifest means the same to a reader who takes keys in any
// case and the last of several.
func FuzzParseManifest(f *testing.F) {
	for _, seed := range []string{`{"mediATYpe":"0"}`, `{"manifests":[{"digest":"a"}]}`, `{"layers":[],"config":{}}`, `{"manifests":null,"layers":[]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		var loose struct {
			MediaType                 string
			Manifests, Layers, Config json.RawMessage
		}
		if err := json.Unmarshal(data, &loose); err != nil || (loose.MediaType != "") != m.Named {
			t.Fatalf("%q is %+v, to others %+v, %v", data, m, loose, err)
		}
		there := func(raw json.RawMessage) bool { return raw != nil && string(raw) != "null" }
		if image := there(loose.Layers) || there(loose.Config); there(loose.Manifests) && image || m.Index() && image {
			t.Errorf("%q is %+v, to others %+v", data, m, loose)
		}
	})
}

func TestDockerHub_IsOneTable(t *testing.T) {
	for _, name := range append(DockerHubNames(), "Registry.Hub.Docker.com") {
		if !IsDockerHub(name) {
			t.Error(name)
		}
	}
	if IsDockerHub("hub.docker.com") || IsDockerHub("") || DockerHubNames()[0] != DockerHub {
		t.Error("other names count too")
	}
}
