package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPolicy_KnowsWhereItsRulesStand(t *testing.T) {
	c := parse(t, `
registries:
  reg.example.com:5443: {aliases: [example]}
policy:
  allow:
    - docker.io/nginx
    - example/team/**
  deny: [index.docker.io/library/centos:7*]
  digest_only: false
  max_image_size: 1GiB
  cooldown: 2d
  cooldown_except: [ghcr.io/acme/app:1]
organisations:
  acme:
    registries: {own.example: {aliases: [own]}}
    policy:
      deny: [own/x]
      cooldown: 72h
`)
	var got []string
	for _, r := range slices.Concat(c.Policy.Allow, c.Policy.Deny, c.Policy.CooldownExcept, c.Organisations["acme"].Policy.Deny) {
		got = append(got, fmt.Sprintf("%s %s:%d", r.ImagePattern, r.File, r.Line))
	}
	equal(t, "rules", strings.Join(got, "\n"), `docker.io/nginx /etc/berth/config.yaml:6
example/team/** /etc/berth/config.yaml:7
index.docker.io/library/centos:7* /etc/berth/config.yaml:8
ghcr.io/acme/app:1 /etc/berth/config.yaml:12
own/x /etc/berth/config.yaml:17`)
	equal(t, "an image of Docker Hub", c.Policy.Allow[0].MatchName("docker.io/library/nginx"), true)
	equal(t, "an alias with a port", c.Policy.Allow[1].MatchName("reg.example.com:5443/team/app"), true)
	equal(t, "another name of Docker Hub", c.Policy.Deny[0].MatchName("docker.io/library/centos"), true)
	equal(t, "an organisation's own alias", c.Organisations["acme"].Policy.Deny[0].MatchName("own.example/x"), true)
	equal(t, "max_image_size", c.Policy.MaxImageSize.Bytes, 1<<30)
	equal(t, "cooldown", c.Policy.Cooldown, 48*time.Hour)
	equal(t, "line of allow", c.Policy.Places["allow"].Line, 5)
	equal(t, "line of cooldown", c.Organisations["acme"].Policy.Places["cooldown"].Line, 18)
}

func TestPolicy_BadOnes(t *testing.T) {
	for text, want := range map[string]string{
		"policy: {allow: []}":                           "1:10: policy.allow: an empty list allows nothing",
		"policy: {allow: [nginx]}":                      `1:18: policy.allow[0]: "nginx" selects no images: it names no registry`,
		"policy: {deny: [docker.io/Nginx]}":             `1:17: policy.deny[0]: "docker.io/Nginx" selects no images`,
		"policy: {max_image_size: 20%}":                 "1:26: policy.max_image_size: an image has no share of a disk",
		"policy: {cooldown: 31d}":                       "1:20: policy.cooldown: ",
		"policy: {signed: {keys: [a]}}":                 "1:18: policy.signed: not yet: signatures are not checked",
		"policy: {signed: true}":                        "policy.signed: not yet",
		"organisations: {acme: {policy: {allow: [a]}}}": `organisations.acme.policy.allow[0]: "a" selects no images`,
	} {
		_, err := Parse([]byte(text), "f.yaml", testOptions())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestPolicy_Warns(t *testing.T) {
	for text, want := range map[string]string{
		"policy: {deny: [quay.oi/acme/**]}":                                                          `no registry is called "quay.oi" here, so the pattern selects nothing: name one as users write it, or add it under registries, or write "quay.io"`,
		"policy: {digest_only: true, allow: [ghcr.io/acme/app:1]}":                                   "with digest_only nothing is pulled by tag",
		"policy: {cooldown_except: [docker.io/nginx]}":                                               "there is no cooldown beside it",
		"policy: {cooldown: 2h}\norganisations: {a: {policy: {cooldown_except: [docker.io/nginx]}}}": "there is no cooldown beside it",
		"policy: {digest_only: true, cooldown: 1h}":                                                  "with digest_only no tag is ever served",
		"policy: {cooldown: 2h}\norganisations: {a: {policy: {cooldown: 1h}}}":                       "the main file holds tags for longer",
		"policy: {max_image_size: 1GB}\norganisations: {a: {policy: {max_image_size: 2GB}}}":         "the main file allows less",
	} {
		if c := parse(t, text); len(c.Warnings) == 0 || !strings.Contains(strings.Join(c.Warnings, "\n"), want) {
			t.Errorf("%s: got %q, want %s", text, c.Warnings, want)
		}
	}
}
