package main

import (
	"encoding/json"
	"errors"
	"io"
	"runtime/debug"
	"strings"
)

// sbom is a software bill of materials in the form of CycloneDX 1.6. It comes from what
// the Go toolchain wrote into this very program, so it cannot be another's.
type sbom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component  component  `json:"component"`
	Properties []property `json:"properties"`
}

type component struct {
	Type    string `json:"type"`
	Ref     string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"purl"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func writeSBOM(w io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program does not know what it was built from")
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(newSBOM(info))
}

func newSBOM(info *debug.BuildInfo) sbom {
	b := sbom{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{Component: newComponent("application", info.Main.Path, version())}}
	for _, s := range info.Settings {
		b.Metadata.Properties = append(b.Metadata.Properties, property{"build:" + s.Key, s.Value})
	}
	b.Components = append(b.Components, newComponent("library", "std", info.GoVersion))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if strings.HasPrefix(m.Path, "./") { // a folder of ours
			continue
		}
		b.Components = append(b.Components, newComponent("library", m.Path, m.Version))
	}
	return b
}

// newComponent is a Go module as a package URL names it.
func newComponent(kind, path, version string) component {
	url := "pkg:golang/" + path + "@" + version
	return component{Type: kind, Ref: url, Name: path, Version: version, URL: url}
}
