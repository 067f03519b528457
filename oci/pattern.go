package oci

import (
	"errors"
	"fmt"
	"strings"
)

// MatchPath says whether the parts of a pattern select path: "**" stands for any
// number of its components, none too, and "*" for any characters within one. It does
// not allocate, and takes at most the product of both lengths: on a mismatch only the
// last star is extended, since an earlier one could gain nothing by it.
func MatchPath(parts []string, path string) bool {
	at, rest, more := 0, path, path != ""
	star, resume := -1, ""
	for more {
		part, after, last := nextComponent(rest)
		switch {
		case at < len(parts) && parts[at] == "**":
			star, resume = at, rest
			at++
			continue
		case at < len(parts) && matchText(parts[at], part):
			at++
			rest, more = after, !last
		case star < 0:
			return false
		default:
			_, after, last = nextComponent(resume)
			resume, at = after, star+1
			rest, more = after, !last
		}
	}
	for at < len(parts) && parts[at] == "**" {
		at++
	}
	return at == len(parts)
}

func nextComponent(s string) (part, rest string, last bool) {
	part, rest, found := strings.Cut(s, "/")
	return part, rest, !found
}

// matchText says whether glob, in which "*" stands for any characters, is s.
func matchText(glob, s string) bool {
	star, resume, at, i := -1, 0, 0, 0
	for i < len(s) {
		switch {
		case at < len(glob) && glob[at] == '*':
			star, resume = at, i
			at++
		case at < len(glob) && glob[at] == s[i]:
			at++
			i++
		case star < 0:
			return false
		default:
			resume++
			at, i = star+1, resume
		}
	}
	return strings.Trim(glob[at:], "*") == ""
}

// ImagePattern selects images by name: a registry and a repository, and a tag if
// there is one. "*" stands for any characters within a component or a tag, "**" for
// any number of whole components: docker.io/library/**, ghcr.io/acme/app-*:1.*
type ImagePattern struct {
	parts []string
	tag   string
	text  string
}

const (
	maxPattern   = 512 // bytes
	lowerLetters = "abcdefghijklmnopqrstuvwxyz0123456789._-"
	tagLetters   = lowerLetters + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// ParseImagePattern reads a pattern as it is written in a configuration.
func ParseImagePattern(s string) (ImagePattern, error) {
	p := ImagePattern{text: s}
	if len(s) > maxPattern {
		return p, errors.New("the pattern is too long")
	}
	name, last := "", s
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		name, last = s[:i+1], s[i+1:]
	}
	last, tag, tagged := strings.Cut(last, ":")
	p.tag = tag
	if p.parts = strings.Split(name+last, "/"); len(p.parts) == 1 && last != "**" {
		return p, errors.New("it names no registry: write docker.io/library/nginx, or docker.io/** for all of a registry")
	}
	if tagged && (tag == "" || strings.Trim(tag, tagLetters+"*") != "") {
		return p, errors.New("what follows the colon is no tag: write docker.io/library/nginx:1.* (a digest cannot be named)")
	}
	for i, part := range p.parts {
		letters := lowerLetters + "*"
		if i == 0 {
			letters += ":"
		}
		switch {
		case part == "" || strings.Trim(part, letters) != "":
			return p, fmt.Errorf("%.60q cannot be part of an image's name: write lower-case letters, digits, . _ - and *", OneLine(part, 60))
		case part != "**" && strings.Contains(part, "**"):
			return p, errors.New("** stands for whole components between slashes: write * within one")
		}
	}
	return p, nil
}

// String is the pattern as it was written.
func (p ImagePattern) String() string { return p.text }

// Registry is the registry that the pattern names; empty where that has a star.
func (p ImagePattern) Registry() string {
	if strings.Contains(p.parts[0], "*") {
		return ""
	}
	return p.parts[0]
}

// At is p with the registry under the name that it goes by here. A single component
// behind Docker Hub's is one of library/.
func (p ImagePattern) At(registry string) ImagePattern {
	rest := p.parts[1:]
	p.parts = append([]string{registry}, rest...)
	if registry == DockerHub && len(rest) == 1 && rest[0] != "**" {
		p.parts = []string{registry, "library", rest[0]}
	}
	return p
}

// Tagged says whether p is about some tags only.
func (p ImagePattern) Tagged() bool { return p.tag != "" }

// MatchName says whether p selects images of name, which is registry/repository.
func (p ImagePattern) MatchName(name string) bool { return MatchPath(p.parts, name) }

// MatchTag says whether tag is among those that p selects.
func (p ImagePattern) MatchTag(tag string) bool { return p.tag == "" || matchText(p.tag, tag) }
