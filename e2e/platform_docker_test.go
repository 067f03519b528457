//go:build e2e

package e2e

import (
	"archive/tar"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// One dockerd as two organisations, over the Engine API.

func TestPlatformGraphdriver(t *testing.T)     { testOneDaemon(t, dockerOld) }
func TestPlatformContainerdStore(t *testing.T) { testOneDaemon(t, dockerNew) }

func testOneDaemon(t *testing.T, v dockerVersion) {
	t.Helper()
	n := newNode(t)
	d := startPlainDocker(t, v)

	t.Run("a name without the organisation means whichever was pulled last", func(t *testing.T) {
		both := n.pushBoth(t, "team/optional")
		ref := n.shared(both["acme"])
		mustPullAs(t, d, ref, n.as("acme"), both["acme"].digest)
		mustPullAs(t, d, ref, n.as("globex"), both["globex"].digest)
		if owner := d.owner(t, ref); owner != "globex" {
			t.Errorf("acme's Service would be %q's: then doc/platform.md says too much", owner)
		}
	})
	t.Run("a name without the organisation serves who was refused", func(t *testing.T) {
		i := pushOwn(t, n.acme, "team/private", "acme")
		mustPullAs(t, d, n.shared(i), n.as("acme"), i.digest)
		mustRefuseAs(t, d, n.shared(i), n.as("globex"), "globex", n.acme.name)
		if owner := d.owner(t, n.shared(i)); owner != "acme" {
			t.Errorf("globex got %q: then doc/platform.md says too much", owner)
		}
	})
	t.Run("with the organisation in the name each creates its own image", func(t *testing.T) {
		both := n.pushBoth(t, "team/required")
		for _, organisation := range []string{"acme", "globex", "acme"} {
			i := both[organisation]
			digest := mustPullAs(t, d, n.local(organisation, i), n.as(organisation), i.digest)
			if owner := d.owner(t, atDigest(n.local(organisation, i), digest)); owner != organisation {
				t.Errorf("%s got the image of %q", organisation, owner)
			}
		}
		// Whose digest it is does not matter: the name is the other's.
		mustNotCreate(t, d, atDigest(n.local("globex", both["acme"]), both["acme"].digest))
	})
	t.Run("or none", func(t *testing.T) {
		i := pushOwn(t, n.acme, "team/none", "acme")
		mustPullAs(t, d, n.local("acme", i), n.as("acme"), i.digest)
		mustRefuseAs(t, d, n.local("globex", i), n.as("globex"), "globex", n.acme.name)
		mustRefuseAs(t, d, n.local("acme", i), n.as("globex"), "belongs to organisation acme")
		mustRefuseAs(t, d, strings.Replace(n.shared(i), n.optional, n.required, 1), n.as("globex"), "begin with the organisation")
		mustNotCreate(t, d, n.local("globex", i))
		mustNotCreate(t, d, atDigest(n.local("globex", i), i.digest))
		// By its ID an image is anybody's: no text of a user's may reach a daemon as it is.
		if owner := d.owner(t, d.id(t, n.local("acme", i))); owner != "acme" {
			t.Errorf("by its ID the image is %q's: then doc/platform.md says too much", owner)
		}
	})
	t.Run("by the digest just pulled, though the tag moves", func(t *testing.T) {
		before := pushOwn(t, n.acme, "team/moves", "before")
		digest := mustPullAs(t, d, n.local("acme", before), n.as("acme"), before.digest)
		after := pushOwn(t, n.acme, "team/moves", "after")
		mustPullAs(t, d, n.local("acme", after), n.as("acme"), after.digest)
		byDigest := atDigest(n.local("acme", before), digest)
		if len(v.drivers) == 0 { // the containerd store forgets what no name means any more
			mustNotCreate(t, d, byDigest)
		}
		mustPullAs(t, d, byDigest, n.as("acme"), digest)
		if owner := d.owner(t, byDigest); owner != "before" {
			t.Errorf("the digest that was pulled gives %q", owner)
		}
	})
	t.Run("two accounts of one organisation", func(t *testing.T) { testAccounts(t, n, d) })
	t.Run("the login is for the address in the name", func(t *testing.T) {
		i := pushOwn(t, n.acme, "team/address", "acme")
		header := registryAuth(n.as("acme"), "registry.example.com")
		_, err := d.pullAs(t, n.local("acme", i), header)
		// The containerd store looks at serveraddress, the graphdriver does not.
		if refuses := len(v.drivers) == 0; refuses != (err != nil) {
			t.Errorf("with another serveraddress: %v", err)
		}
	})
	t.Run("layers are shared, whatever the names", func(t *testing.T) {
		stolen, thief := n.steal(t, "team/layers")
		if _, err := d.pullAs(t, n.local("globex", thief), registryAuth(n.as("globex"), n.required)); err == nil {
			t.Fatal("globex has acme's layers from berth")
		}
		mustPullAs(t, d, n.local("acme", stolen), n.as("acme"), stolen.digest)
		mustPullAs(t, d, n.local("globex", thief), n.as("globex"), thief.digest)
		if owner := d.owner(t, n.local("globex", thief)); owner != "acme" {
			t.Errorf("globex got %q: then doc/platform.md says too much", owner)
		}
	})
	noSecrets(t, &berth{daemon: n.daemon})
}

// testAccounts: each Service's pull uses the account that it picked, and what
// is told to the user and counted names it.
func testAccounts(t *testing.T, n *node, d docker) {
	t.Helper()
	i := pushOwn(t, n.acme, "team/accounts", "acme")
	before := n.acme.gate.came(acmeUpstream.user)
	mustPullAs(t, d, n.local("acme", i), n.as("acme+ci"), i.digest)
	if n.acme.gate.came(acmeUpstream.user) == before {
		t.Error("nobody asked as acme-bot: this is no test")
	}
	there := pushOwn(t, n.acme, "elsewhere/app", "acme")
	mustRefuseAs(t, d, n.local("acme", there), n.as("acme+old"), "acme", `"old"`, n.acme.name)
	mustRefuseAs(t, d, n.local("acme", there), n.as("acme"), `"old"`) // the most specific
	mustPullAs(t, d, n.local("acme", there), n.as("acme+ci"), there.digest)
	mustRefuseAs(t, d, n.local("acme", i), n.as("acme+nobody"), "nobody", "ci, old")
	b := &berth{daemon: n.daemon, admin: n.admin}
	for account, ok := range map[string]float64{"ci": 1, "old": 0} {
		labels := []string{`organisation="acme"`, `registry="` + n.acme.name + `"`, `account="` + account + `"`}
		if got := b.metric(t, "berth_credential_ok", labels...); got != ok {
			t.Errorf("berth_credential_ok of %s is %v", account, got)
		}
	}
}

// startPlainDocker starts a dockerd that knows of no mirror.
func startPlainDocker(t *testing.T, v dockerVersion) docker {
	t.Helper()
	return startDocker(t, v, &world{
		acme: &upstream{name: "a.invalid"}, globex: &upstream{name: "b.invalid"},
		hub: &upstream{name: "c.invalid"}, berth: &berth{tokens: "127.0.0.1:1", open: "127.0.0.1:1"},
	})
}

// registryAuth is the X-Registry-Auth header: the alphabet of URLs, padded.
func registryAuth(as login, address string) string {
	text, err := json.Marshal(map[string]string{"username": as.user, "password": as.password, "serveraddress": address})
	if err != nil {
		panic(err) // strings cannot fail
	}
	return base64.URLEncoding.EncodeToString(text)
}

// pullAs is POST /images/create; the digest is what the daemon says it pulled.
func (d docker) pullAs(t *testing.T, ref, auth string) (digest string, err error) {
	t.Helper()
	query := url.Values{"fromImage": {ref}}
	if name, tag, ok := cutTag(ref); ok {
		query = url.Values{"fromImage": {name}, "tag": {tag}}
	}
	resp, err := d.send(t.Context(), http.MethodPost, "/images/create?"+query.Encode(), http.Header{"X-Registry-Auth": {auth}}, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	for stream := json.NewDecoder(resp.Body); ; {
		var line struct{ Status, Error string }
		if err := stream.Decode(&line); errors.Is(err, io.EOF) {
			return digest, nil
		} else if err != nil {
			return "", err
		}
		if line.Error != "" {
			return "", errors.New(line.Error)
		}
		if d, ok := strings.CutPrefix(line.Status, "Digest: "); ok {
			digest = d
		}
	}
}

// cutTag takes the tag or digest off a reference; the colon of a port is none.
func cutTag(ref string) (name, tag string, ok bool) {
	if name, digest, ok := strings.Cut(ref, "@"); ok {
		return name, digest, true
	}
	at := strings.LastIndex(ref, ":")
	if at < strings.LastIndex(ref, "/") {
		return ref, "", false
	}
	return ref[:at], ref[at+1:], true
}

// atDigest is the name of ref with a digest in the place of its tag.
func atDigest(ref, digest string) string {
	name, _, _ := cutTag(ref)
	return name + "@" + digest
}

// container is docker create.
func (d docker) container(t *testing.T, ref string) (id string, err error) {
	t.Helper()
	var container struct{ ID string }
	err = d.call(t, http.MethodPost, "/containers/create", nil, map[string]any{
		"Image": ref, "NetworkDisabled": true, "HostConfig": map[string]any{"NetworkMode": "none"},
	}, &container)
	return container.ID, err
}

// id is the ID of an image, the first digits of which are enough for dockerd.
func (d docker) id(t *testing.T, ref string) string {
	t.Helper()
	var image struct{ ID string }
	must(t, d.call(t, http.MethodGet, "/images/"+ref+"/json", nil, nil, &image))
	return strings.TrimPrefix(image.ID, "sha256:")[:12]
}

// owner creates a container and reads /owner in it.
func (d docker) owner(t *testing.T, ref string) string {
	t.Helper()
	id, err := d.container(t, ref)
	if err != nil {
		t.Fatalf("creating from %s: %v", ref, err)
	}
	defer func() { must(t, d.call(t, http.MethodDelete, "/containers/"+id, nil, nil, nil)) }()
	return d.ownerIn(t, id)
}

// ownerIn reads /owner in a container.
func (d docker) ownerIn(t *testing.T, id string) string {
	t.Helper()
	resp, err := d.send(t.Context(), http.MethodGet, "/containers/"+id+"/archive?path=/owner", nil, nil)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	archive := tar.NewReader(resp.Body)
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(archive)
	must(t, err)
	return string(text)
}

func mustPullAs(t *testing.T, d docker, ref string, as login, digest string) string {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	got, err := d.pullAs(t, ref, registryAuth(as, host))
	if err != nil {
		t.Fatalf("pulling %s as %q: %v", ref, as.user, err)
	}
	if got != digest {
		t.Fatalf("pulled %s as %q, and got %q instead of %s", ref, as.user, got, digest)
	}
	return got
}

func mustRefuseAs(t *testing.T, d docker, ref string, as login, words ...string) {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	digest, err := d.pullAs(t, ref, registryAuth(as, host))
	if err == nil {
		t.Fatalf("%q pulled %s, and got %s", as.user, ref, digest)
	}
	t.Logf("%s reads: %v", as.user, err)
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s does not read %q", as.user, word)
		}
	}
}

// mustNotCreate says that dockerd has no image of this name.
func mustNotCreate(t *testing.T, d docker, ref string) {
	t.Helper()
	if _, err := d.container(t, ref); err == nil {
		t.Errorf("a container could be created from %s", ref)
	} else if !missing.MatchString(err.Error()) && !strings.Contains(err.Error(), "No such image") {
		t.Errorf("creating from %s: %v", ref, err)
	}
}
