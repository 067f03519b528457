package oci

import (
	"slices"
	"strings"
)

// maxPlatforms is how many platforms of an index are looked at.
const maxPlatforms = 64

// Platform is what an image runs on, without the variant of the architecture.
type Platform struct{ OS, Architecture string }

func (p Platform) String() string { return p.OS + "/" + p.Architecture }

// ParsePlatform reads "linux/arm64"; a variant behind it is not looked at.
func ParsePlatform(s string) (Platform, bool) {
	system, rest, _ := strings.Cut(s, "/")
	architecture, _, _ := strings.Cut(rest, "/")
	return MakePlatform(system, architecture)
}

// MakePlatform is a Platform if these can be names of a system and an
// architecture, fit to be shown.
func MakePlatform(system, architecture string) (Platform, bool) {
	if !platformWord(system) || !platformWord(architecture) {
		return Platform{}, false
	}
	return Platform{system, architecture}, true
}

func platformWord(s string) bool {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-' }
	return s != "" && len(s) <= 24 && !strings.ContainsFunc(s, odd)
}

// Runs says whether an image for other runs on p. Clients take 32-bit images of
// the same family where there is nothing better (containerd/platforms,
// platformVector).
func (p Platform) Runs(other Platform) bool {
	if p.OS != other.OS {
		return false
	}
	return p.Architecture == other.Architecture ||
		p.Architecture == "amd64" && other.Architecture == "386" ||
		p.Architecture == "arm64" && other.Architecture == "arm"
}

// PlatformsIn are the platforms that an index has images for, without
// repetition. Nil: it does not tell, since something in it is for no platform in
// particular, or there is no image in it (one of signatures, or something
// that cannot be read).
func PlatformsIn(index []byte) (all []Platform) {
	m, err := ParseManifest(index)
	if err != nil {
		return nil
	}
	for _, e := range m.Manifests {
		p, ok := e.on()
		switch {
		case !ok || IsIndex(e.MediaType) || len(all) == maxPlatforms:
			return nil
		case p == attestation():
		case !slices.Contains(all, p):
			all = append(all, p)
		}
	}
	return all
}

// attestation is the platform of what BuildKit puts beside images.
func attestation() Platform { return Platform{"unknown", "unknown"} }

// ChoosePlatform is the image of an index for p: exactly, else as clients take it.
// If there is none it is empty, and found are the platforms that there are.
func ChoosePlatform(all []Entry, p Platform) (d Digest, found []Platform) {
	for _, e := range all {
		other, ok := e.on()
		switch {
		case !ok || other == attestation():
		case other == p:
			return e.Digest, nil
		case p.Runs(other) && d == "":
			d = e.Digest
		case len(found) < maxPlatforms && !slices.Contains(found, other):
			found = append(found, other)
		}
	}
	return d, found
}

// NamePlatforms names some of all for a message.
func NamePlatforms(all []Platform) string {
	const most = 12
	names := make([]string, 0, most+1)
	for i, p := range all {
		if i == most {
			names = append(names, "and more")
			break
		}
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
}
