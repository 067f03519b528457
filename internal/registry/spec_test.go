package registry

import (
	"reflect"
	"slices"
	"testing"

	"berth/oci"
	"berth/upstream/dialect"
)

// TestSpec_OfBuiltins: each has what it takes to be asked, and no two share a name.
func TestSpec_OfBuiltins(t *testing.T) {
	seen := map[string]string{}
	for _, b := range Builtins() {
		s, err := New(b.Name, "", Place{}, Trust{})
		if err != nil {
			t.Fatal(err)
		}
		if s.Origin.Scheme != "https" || "https://"+s.Origin.Host != b.Endpoint || !b.UniformView || s.Named != nil {
			t.Errorf("%s: %+v", b.Name, s)
		}
		for _, name := range append(s.Aliases, s.Name) {
			if was, ok := seen[name]; ok {
				t.Errorf("%s is a name of %s and of %s", name, was, s.Name)
			}
			seen[name] = s.Name
		}
	}
	for _, name := range []string{"docker.io", "dhi.io", "ghcr.io", "registry.digitalocean.com", "quay.io", "gcr.io", "mcr.microsoft.com", "registry.k8s.io", "public.ecr.aws", "registry.gitlab.com", "lscr.io"} {
		if seen[name] != name {
			t.Errorf("%s is missing", name)
		}
	}
	if seen["index.docker.io"] != "docker.io" || seen["registry-1.docker.io"] != "docker.io" {
		t.Error("Docker Hub's other names are missing")
	}
}

func TestSpec_New(t *testing.T) {
	place, trust := Defaults("registry.gitlab.com")
	place.Endpoint, place.Aliases, trust.TokenEndpoints = "https://lab.example:443", []string{"lab"}, []string{"https://sso.example/token"}
	s, err := New("registry.gitlab.com", "", place, trust)
	if err != nil {
		t.Fatal(err)
	}
	if want := (oci.Origin{Scheme: "https", Host: "lab.example"}); s.Origin != want {
		t.Errorf("origin %+v", s.Origin)
	}
	if len(s.Named) != 2 || s.Named[0].Host != "lab.example:443" || s.Named[1].Host != "sso.example" {
		t.Errorf("the operator wrote down %v", s.Named)
	}
	if want := []string{"https://gitlab.com/jwt/auth", "https://sso.example/token"}; !slices.Equal(s.TokenEndpoints, want) || !s.UniformView || s.Aliases[0] != "lab" {
		t.Errorf("%+v", s)
	}
	// What an organisation wrote down has no more rights than what it leads to.
	own, err := New("lab.example", "acme", place, trust)
	if err != nil || own.Named != nil || own.Origin.Owner != "acme" {
		t.Errorf("%+v, %v", own, err)
	}
	mirror, err := s.MirrorSpec(Mirror{URL: "http://copy.example:80"})
	if err != nil || mirror.Name != "copy.example:80" || mirror.Origin.Host != "copy.example" || mirror.TokenEndpoints != nil || len(mirror.Named) != 1 {
		t.Errorf("%+v, %v", mirror, err)
	}
}

// TestSpec_SameReach: what changes how a registry is reached makes a new client, what
// only names it or says what may be served does not. A field that is not listed here is
// a new one: it counts until Spec.reach leaves it out.
func TestSpec_SameReach(t *testing.T) {
	stays := map[string]bool{"Aliases": true, "OnNotFound": true, "Access": true, "UniformView": true, "AnonymousFallback": true}
	var try func(path string, at func(*Spec) reflect.Value, of reflect.Type)
	try = func(path string, at func(*Spec) reflect.Value, of reflect.Type) {
		for f := range of.Fields() {
			field := func(s *Spec) reflect.Value { return at(s).FieldByIndex(f.Index) }
			if f.Anonymous {
				try(path, field, f.Type)
				continue
			}
			a, b := &Spec{Name: "a"}, &Spec{Name: "a"}
			change(t, f.Name, field(b))
			if got := a.SameReach(b); got != stays[f.Name] {
				t.Errorf("%s: a change of it keeps the client: %v", f.Name, got)
			}
		}
	}
	try("", func(s *Spec) reflect.Value { return reflect.ValueOf(s).Elem() }, reflect.TypeFor[Spec]())
}

// change gives v another value.
func change(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("other")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Struct:
		v.FieldByName("Host").SetString("other")
	default:
		t.Fatalf("no way to change %s, a %s", name, v.Type())
	}
}

// TestSpec_Unlisted: any public host is a registry, in both forms of its port, and nothing
// that is this node, the inside of its network, or more than a host.
func TestSpec_Unlisted(t *testing.T) {
	for host, name := range map[string]string{
		"docker.elastic.co": "docker.elastic.co", "reg.acme.com:5443": "reg.acme.com:5443", "reg.acme.com_5443": "reg.acme.com:5443",
		"8.8.8.8": "8.8.8.8", "8.8.8.8:5000": "8.8.8.8:5000", "[2001:4860:4860::8888]:5000": "[2001:4860:4860::8888]:5000",
	} {
		s, ok := Unlisted(host)
		if !ok || s.Name != name || s.Origin != (oci.Origin{Scheme: "https", Host: name}) || s.Named != nil || !s.Unlisted || s.Label() != "other" || s.UniformView {
			t.Errorf("%s: %+v, %v", host, s, ok)
		}
	}
	for _, host := range []string{
		"", "localhost", "localhost:5000", "a.localhost", "nginx", "nginx:1", "127.0.0.1", "127.0.0.1:5000", "[::1]:5000", "10.0.0.1", "169.254.169.254", "192.168.1.1:443", "0.0.0.0",
		"[fe80::1]:1", "x.example/app", "x.example?a", "x.example#a", "user@x.example", "X.example", "x.example:", "x.example:http", "x_y.example", "x .example", "xn.example%2f", "x.example_", ".", "a..b:x",
	} {
		if s, ok := Unlisted(host); ok {
			t.Errorf("%q is %+v", host, s)
		}
	}
	a, _ := Unlisted("x.example")
	b, _ := Unlisted("x.example")
	c, _ := Unlisted("y.example")
	if !a.Same(b) || a.Same(c) || a.Same(nil) || (*Spec)(nil).Same(a) {
		t.Error("what is the same is not")
	}
}

// TestType_TokenEndpoints: a type has those that its dialect has.
func TestType_TokenEndpoints(t *testing.T) {
	for _, name := range Type("").Values() {
		d, ok := dialect.TypeNamed(name)
		if got := Type(name).TokenEndpoints(); !ok || !slices.Equal(got, d.TokenEndpoints) {
			t.Errorf("%s: %v, and its dialect has %v", name, got, d.TokenEndpoints)
		}
	}
}
