package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/registry"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text), "/etc/berth/config.yaml", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestDefault(t *testing.T) {
	c := Default(testOptions())
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
	l := c.Listeners[0]
	equal(t, "listeners", len(c.Listeners), 1)
	equal(t, "address", l.Address.String(), "localhost:5000")
	equal(t, "callers", l.Callers, CallersOpen)
	equal(t, "organisation", l.Organisation, "")
	equal(t, "registry", l.Registry, "docker.io")
	equal(t, "cache.directory", c.Cache.Directory, "/home/berth/.cache/berth")
	equal(t, "cache.max_size", c.Cache.MaxSize, Size{Percent: 20})
	equal(t, "admin.address", c.Admin.Address.String(), "localhost:5001")
	equal(t, "admin.socket", c.Admin.Socket, "/run/user/1000/berth/admin.sock")
	equal(t, "warnings", len(c.Warnings), 0)
}

func TestFoldersFromTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env           map[string]string
		root          bool
		cache, socket string
	}{
		{map[string]string{"CACHE_DIRECTORY": "/var/cache/berth:/var/cache/other", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, true, "/var/cache/berth", "/run/berth/admin.sock"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h", "XDG_RUNTIME_DIR": "/r"}, false, "/x/berth", "/r/berth/admin.sock"},
		{map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/h", "XDG_RUNTIME_DIR": "relative"}, false, "/h/.cache/berth", "/run/berth/admin.sock"},
		{map[string]string{"RUNTIME_DIRECTORY": "/run/berth-2", "XDG_RUNTIME_DIR": "/r"}, false, "/var/cache/berth", "/run/berth-2/admin.sock"},
		{map[string]string{"RUNTIME_DIRECTORY": "/run/berth-2", "XDG_RUNTIME_DIR": "/r"}, true, "/var/cache/berth", "/run/berth/admin.sock"},
	} {
		got := Default(Options{Getenv: func(key string) string { return c.env[key] }, Root: func() bool { return c.root }})
		equal(t, fmt.Sprint(c.env, " cache"), got.Cache.Directory, c.cache)
		equal(t, fmt.Sprint(c.env, " socket"), got.Admin.Socket, c.socket)
	}
}

// TestValues follows every kind of value from the file to its field.
func TestValues(t *testing.T) {
	c := parse(t, `
listeners:
  - {address: "[::1]:5000", callers: token, tls: {cert_file: a.crt, key_file: /keys/a.key}, registry: index.docker.io}
registries:
  docker.io: {aliases: [hub], credential: {username: bot, password_file: secrets/hub}}
  "reg.example.com:5443":
    aliases: [reg]
    mirrors: [{url: "https://MIRROR.example.com:443/"}]
    token_endpoints: ["https://SSO.example.com:443/token"]
    allow_private: [10.0.0.0/8, 192.168.1.1]
    uniform_view: true
    anonymous_fallback: false
  plain.example: {endpoint: "http://127.0.0.1:80", access: object, on_not_found: keep}
organisations:
  acme:
    tokens: [{name: a, sha256: 0000000000000000000000000000000000000000000000000000000000000001, not_after: 2031-01-31}]
    credentials:
      - {name: CI of acme, registry: reg.example.com_5443, docker_config: acme/config.json}
      - {name: b, registry: hub, username: bot, password_file: acme/hub, repositories: ["acme/**", "*/app", "**"]}
      - {name: c, registry: own, username: bot, password_credential: x}
    registries:
      own.example: {aliases: [own]}
    limits: {requests: 8}
    grace: 0s
  globex:
cache: {max_size: 1.5GiB, grace: 2d, directory: store}
admin: {address: "", socket: ""}
`)
	l, hub, reg := c.Listeners[0], c.Registries["docker.io"], c.Registries["reg.example.com:5443"]
	equal(t, "cert_file", l.TLS.CertFile, "/etc/berth/a.crt")
	equal(t, "key_file", l.TLS.KeyFile, "/keys/a.key")
	equal(t, "registry of the listener", l.Registry, "docker.io")
	equal(t, "in name", l.OrganisationInName, InNameOptional)

	equal(t, "built-in endpoint", hub.Endpoint, "")
	equal(t, "built-in type", hub.Type, registry.DockerHub)
	equal(t, "built-in view", hub.UniformView, true)
	equal(t, "shared password_file", hub.Credential.PasswordFile, "/etc/berth/secrets/hub")
	equal(t, "endpoint", reg.Endpoint, "https://reg.example.com:5443")
	equal(t, "type", reg.Type, registry.Generic)
	equal(t, "mirror", reg.Mirrors[0].URL, "https://mirror.example.com")
	equal(t, "token endpoint", reg.TokenEndpoints[0], "https://sso.example.com/token")
	equal(t, "allow_private", fmt.Sprint(reg.AllowPrivate), "[10.0.0.0/8 192.168.1.1/32]")
	equal(t, "uniform_view", reg.UniformView, true)
	equal(t, "anonymous_fallback", reg.AnonymousFallback, false)
	equal(t, "anonymous_fallback by default", hub.AnonymousFallback, true)
	equal(t, "http endpoint", c.Registries["plain.example"].Endpoint, "http://127.0.0.1")
	equal(t, "access", c.Registries["plain.example"].Access, registry.AccessObject)
	equal(t, "on_not_found", c.Registries["plain.example"].OnNotFound, registry.Keep)

	acme := c.Organisations["acme"]
	equal(t, "hash", acme.Tokens[0].SHA256, Hash{31: 1})
	equal(t, "not_after", acme.Tokens[0].NotAfter.Format(time.RFC3339), "2031-01-31T23:59:59Z")
	equal(t, "registry by its path form", acme.Credentials[0].Registry, "reg.example.com:5443")
	equal(t, "registry by alias", acme.Credentials[1].Registry, "docker.io")
	equal(t, "own registry by alias", acme.Credentials[2].Registry, "own.example")
	equal(t, "own endpoint", acme.Registries["own.example"].Endpoint, "https://own.example")
	equal(t, "password_file", acme.Credentials[1].PasswordFile, "/etc/berth/acme/hub")
	equal(t, "folder", acme.Credentials[1].Folder, "")
	equal(t, "limits", acme.Limits, Limits{Requests: 8, Fills: 16, AnonymousShare: 0.25, Rate: 20, Burst: 500})
	equal(t, "grace of nothing", acme.Grace, 0)
	equal(t, "grace of the cache", c.Organisations["globex"].Grace, 48*time.Hour)
	equal(t, "limits by default", c.Organisations["globex"].Limits.Requests, 256)

	equal(t, "max_size", c.Cache.MaxSize, Size{Bytes: 3 << 29})
	equal(t, "directory", c.Cache.Directory, "/etc/berth/store")
	equal(t, "no admin", c.Admin.Address.IsZero(), true)
	equal(t, "no socket", c.Admin.Socket, "")
	equal(t, "untouched", c.Cache.TagTTL, time.Minute)
	equal(t, "warnings", len(c.Warnings), 0)
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown registry": {
			"listeners: [{address: 'localhost:5000', callers: token}]\norganisations:\n  acme:\n    tokens: [{name: a, sha256: " + HashOf("good").String() + "}]\n    credentials:\n      - {name: a, registry: r.example, username: b, password_file: c}\n",
			`berth.yaml:6:29: organisations.acme.credentials[0].registry: registry "r.example" is not configured, so the account is never used: add it under registries`,
		},
		"a registry by its nickname": {
			"listeners: [{address: 'localhost:5000', callers: token}]\norganisations:\n  acme:\n    tokens: [{name: a, sha256: " + HashOf("good").String() + "}]\n    credentials:\n      - {name: a, registry: dockerhub, username: b, password_file: c}\n",
			`berth.yaml:6:29: organisations.acme.credentials[0].registry: registry "dockerhub" is not configured, so the account is never used: add it under registries, or write "docker.io" if that is meant`,
		},
		"expired token": {
			"listeners: [{address: 'localhost:5000', callers: token}]\norganisations: {acme: {tokens: [{name: a, not_after: 2029-12-31, sha256: " + HashOf("good").String() + "}]}}\n",
			`berth.yaml:2:54: organisations.acme.tokens[0].not_after: the token has expired: remove it`,
		},
		"nobody pulls as them": {
			"organisations: {acme: {}}\n",
			`berth.yaml:1:1: organisations: no listener tells who is calling, so nobody pulls as these organisations: set callers: token, or a listener's organisation`,
		},
		"others are let in as one": {
			"listeners: [{address: 'localhost:5000', organisation: acme}, {address: 'localhost:5002', callers: token}]\norganisations: {acme: {}, globex: {}}\n",
			`berth.yaml:1:55: listeners[0].organisation: whoever reaches this address pulls as organisation "acme", the containers of the other organisations on this node too: set callers: token`,
		},
		"no listener for one": {
			"listeners: [{address: 'localhost:5000', organisation: acme}]\norganisations:\n  acme: {}\n  globex: {}\n",
			`berth.yaml:1:55: listeners[0].organisation: whoever reaches this address pulls as organisation "acme", the containers of the other organisations on this node too: set callers: token
berth.yaml:4:3: organisations.globex: no listener is for organisation "globex", and none asks for tokens, so nobody pulls as it: set callers: token, or a listener's organisation`,
		},
		"no token": {
			"listeners: [{address: 'localhost:5000', callers: token}]\norganisations:\n  acme:\n    credentials:\n      - {name: a, registry: ghcr.io, username: b, password_file: c}\n",
			`berth.yaml:3:3: organisations.acme.tokens: organisation "acme" has no token, so nobody pulls as it: make one with berth token`,
		},
		"an alias that somebody has at Docker Hub": {
			"registries: {reg.example.com: {aliases: [example, ex, r.example]}}\n",
			`berth.yaml:1:42: registries.reg.example.com.aliases[0]: if "example" is somebody at Docker Hub too, example/app no longer means his images: choose an alias with a dot or a dash, or write docker.io/example/app for those`,
		},
		"tokens in the clear": {
			"listeners: [{address: '10.0.0.1:5000', callers: token, allow_remote: true}]\n",
			`berth.yaml:1:23: listeners[0].address: tokens cross the network readable for everyone on the way: set tls`,
		},
		"metadata for all": {
			"organisation_registries: {allow_private: [10.0.0.0/8, 169.254.0.0/16]}\n",
			`berth.yaml:1:55: organisation_registries.allow_private[1]: every organisation could reach this node's own services or the cloud's metadata: list only the network of the registries`,
		},
		"rights that linger": {
			"cache: {access_ttl: 2h}\n",
			`berth.yaml:1:21: cache.access_ttl: a right that a registry withdrew works on for this long: keep it under an hour`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.text), "berth.yaml", testOptions())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Warnings, strings.Split(c.want, "\n")) {
				t.Errorf("got  %q\nwant %q", got.Warnings, c.want)
			}
		})
	}
}

// TestDigitalOcean: there a token is user name and password at once.
func TestDigitalOcean(t *testing.T) {
	c := parse(t, `
listeners: [{address: "localhost:5000", callers: token}]
registries: {do.example: {type: digitalocean, credential: {password_file: x}}}
organisations:
  acme:
    registries: {own.example: {type: digitalocean}}
    credentials:
      - {name: a, registry: registry.digitalocean.com, password_file: x}
      - {name: b, registry: do.example, password_file: x}
      - {name: c, registry: own.example, password_file: x}
`)
	equal(t, "warnings", len(c.Warnings), 1) // acme has no token
}

// TestOwnRegistryInAnOpenedNetwork is what the operator may allow.
func TestOwnRegistryInAnOpenedNetwork(t *testing.T) {
	parse(t, `
organisation_registries: {allow_private: [10.1.0.0/16, "fd00::/8"]}
organisations:
  acme:
    registries:
      r.example: {endpoint: "https://10.1.2.3:5443", allow_private: [10.1.2.0/24]}
      s.example: {endpoint: "https://[fd00::1]", allow_private: ["fd00::1"]}
`)
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		in, out  string
		loopback bool
		binds    string
	}{
		{"localhost:5000", "localhost:5000", true, "[127.0.0.1:5000 [::1]:5000]"},
		{"127.0.0.2:0", "127.0.0.2:0", true, "[127.0.0.2:0]"},
		{"[::1]:5000", "[::1]:5000", true, "[[::1]:5000]"},
		{"[::ffff:127.0.0.1]:5000", "127.0.0.1:5000", true, "[127.0.0.1:5000]"},
		{":5000", "[::]:5000", false, "[[::]:5000]"},
		{"*:0", "[::]:0", false, "[[::]:0]"},
		{"0.0.0.0:5000", "0.0.0.0:5000", false, "[0.0.0.0:5000]"},
		{"10.0.0.1:5000", "10.0.0.1:5000", false, "[10.0.0.1:5000]"},
		{"systemd:berth", "systemd:berth", false, "[]"},
	} {
		a, err := parseAddress(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		equal(t, c.in, a.String(), c.out)
		equal(t, c.in+" loopback", a.Loopback(), c.loopback)
		equal(t, c.in+" binds", fmt.Sprint(a.Binds()), c.binds)
	}
	for _, in := range []string{"", "5000", "localhost", "localhost:", "localhost:http", "localhost:-1", "a.example:1", "1.2.3:4", "systemd:a/b", "systemd:-x"} {
		if a, err := parseAddress(in); err == nil {
			t.Errorf("%q was read as %v", in, a)
		}
	}
}

// TestMayBind is for sockets whose address only shows at start.
func TestMayBind(t *testing.T) {
	open, token, remote := Listener{Callers: CallersOpen}, Listener{Callers: CallersToken, TLS: &TLS{}}, Listener{Callers: CallersOpen, AllowRemote: true}
	tlsOnly, tokenOnly := Listener{Callers: CallersOpen, TLS: &TLS{}}, Listener{Callers: CallersToken}
	near, far := netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("10.0.0.1")
	for name, c := range map[string]struct {
		l  Listener
		ip netip.Addr
		ok bool
	}{
		"open near": {open, near, true}, "open far": {open, far, false}, "open on every address": {open, netip.IPv6Unspecified(), false},
		"token with TLS far": {token, far, true}, "token without TLS far": {tokenOnly, far, false},
		"TLS without token far": {tlsOnly, far, false}, "allowed far": {remote, far, true},
	} {
		if err := c.l.MayBind(c.ip); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]Size{
		"20%": {Percent: 20}, "0.5 %": {Percent: 0.5}, "100%": {Percent: 100}, "0%": {}, "0": {},
		"1024": {Bytes: 1024}, "1b": {Bytes: 1}, "500MB": {Bytes: 5e8}, "500 mb": {Bytes: 5e8},
		"10GiB": {Bytes: 10 << 30}, "1.5KiB": {Bytes: 1536}, "2TB": {Bytes: 2e12}, "2TiB": {Bytes: 2 << 40},
	} {
		got, err := parseSize(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		equal(t, in, got, want)
		if again, err := parseSize(got.String()); err != nil || again != got {
			t.Errorf("%s: %q does not read back: %v %v", in, got.String(), again, err)
		}
	}
	for _, in := range []string{"", "%", "G", "10G", "1e9", "1.2.3", "-5%", "+5", "0x10", "NaN", "Inf%", "10 GiB/s"} {
		if s, err := parseSize(in); err == nil {
			t.Errorf("%q was read as %v", in, s)
		}
	}
	equal(t, "a fifth of 1000", Size{Percent: 20}.Of(1000), 200)
	equal(t, "bytes of anything", Size{Bytes: 77}.Of(1000), 77)
}

func TestNotAfter(t *testing.T) {
	for in, want := range map[string]string{
		"2027-01-31":                "2027-01-31T23:59:59Z",
		"2027-01-31T12:00:00Z":      "2027-01-31T12:00:00Z",
		"2027-01-31T12:00:00+02:00": "2027-01-31T10:00:00Z",
	} {
		got, err := ParseNotAfter(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		equal(t, in, got.Format(time.RFC3339), want)
	}
}

func TestOrganisationNames(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "acme": true, "a.b-c_d": true, "0": true,
		"": false, "Acme": false, "a--b": false, "a__b": false, "a.": false, "-a": false, "a/b": false, "a+b": false, "a..b": false, "é": false,
		strings.Repeat("a", 128): true, strings.Repeat("a", 129): false,
	} {
		equal(t, s, ValidOrganisation(s), want)
	}
}

// TestSecretsStayHidden prints a configuration in every way that a log could.
func TestSecretsStayHidden(t *testing.T) {
	c := parse(t, "log: {}\n")
	o, _, err := c.dropIn("acme", "/etc/berth/organisations.d/acme.yaml", []byte("credentials: [{name: a, registry: ghcr.io, username: b, password: hunter2}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	secret := o.Credentials[0].Password
	equal(t, "the secret itself", secret.Reveal(), "hunter2")
	asJSON, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "account", o.Credentials[0])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", secret, "account", o.Credentials[0])
	for _, shown := range []string{
		string(asJSON), log.String(),
		fmt.Sprintf("%v %+v %#v %s %q %x %d", o, o, o, secret, secret, secret, secret), fmt.Sprint(&secret),
		fmt.Sprintf("%v %+v %#v", struct{ o Organisation }{o}, struct{ o Organisation }{o}, struct{ o Organisation }{o}),
	} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, "68756e74657232") {
			t.Errorf("shown: %s", shown)
		}
	}
	if !strings.Contains(log.String(), "[secret]") {
		t.Error("the log does not say that something was left out")
	}
}

func TestBlockScalarPassword(t *testing.T) {
	c := parse(t, "log: {}\n")
	o, _, err := c.dropIn("acme", "/d/acme.yaml", []byte("credentials:\n- name: a\n  registry: ghcr.io\n  username: b\n  password: |\n    hunter2\n"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "password", o.Credentials[0].Password.Reveal(), "hunter2")
	equal(t, "folder", o.Credentials[0].Folder, "/d/acme")
}

// TestSpecs_HaveWhatTheFileSays: a key of a registry needs no line on its way to what uses
// it.
func TestSpecs_HaveWhatTheFileSays(t *testing.T) {
	c, err := Parse(uncommented(t), "config.example.yaml", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	specs, err := c.Specs()
	if err != nil {
		t.Fatal(err)
	}
	seen, keys := 0, map[string]bool{}
	for _, s := range specs {
		r, ok := c.Registries[s.Name]
		if s.Organisation != "" {
			r, ok = c.Organisations[s.Organisation].Registries[s.Name]
		}
		if _, builtin := registry.Builtin(s.Name); !ok || builtin {
			continue // not in the file, or laid over what is built in
		}
		seen++
		if !reflect.DeepEqual(s.Place, r.Place) || !reflect.DeepEqual(s.Trust, r.Trust) {
			t.Errorf("%s: the file says %+v, the Spec %+v", s.Name, r, s)
		}
		standard, trust := registry.Defaults(s.Name)
		for _, pair := range [...][2]any{{s.Place, standard}, {s.Trust, trust}} {
			got, std := reflect.ValueOf(pair[0]), reflect.ValueOf(pair[1])
			for i := range got.NumField() {
				if !reflect.DeepEqual(got.Field(i).Interface(), std.Field(i).Interface()) {
					keys[got.Type().Field(i).Name] = true
				}
			}
		}
	}
	if seen == 0 || len(keys) < 5 {
		t.Errorf("%d registries of the example differ from the defaults in %v only", seen, keys)
	}
}
