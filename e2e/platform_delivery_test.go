//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// second is how long a change may take to be noticed, on a machine that has
// other things to do.
const second = 2 * time.Second

// An organisation is delivered as doc/platform.md says, by the very commands,
// files and header in it.
func TestPlatformDelivery(t *testing.T) {
	onlyBehindBerth(t)
	ghcr := newSite(t, "ghcr.io", acmeUpstream, acmeHash, nil)
	i := pushOwn(t, ghcr, "acme/app", "acme")
	n := &node{dir: tempDir(t, "node"), admin: freeAddress(t)}
	_, port, _ := strings.Cut(freeAddress(t), ":")
	n.required = "localhost:" + port
	n.optional = n.required
	text := strings.ReplaceAll(block(t, "# /etc/berth/config.yaml"), "localhost:5000", n.required)
	writeFile(t, n.config(), text+"registries: {ghcr.io: {endpoint: '"+ghcr.gate.url()+"'}}\n"+
		"cache: {directory: cache, max_size: 1GiB, min_free: 1%}\n"+
		"admin: {address: '"+n.admin+"', socket: '"+filepath.Join(n.dir, "admin.sock")+"'}\n")
	folder := filepath.Join(n.dir, "organisations.d")
	must(t, os.Mkdir(folder, 0o700))
	n.start(t, "")

	dropIn := block(t, "# organisations.d/acme.yaml")
	d := startPlainDocker(t, dockerOld)
	header := strings.TrimSpace(block(t, "auth header"))
	ref := n.required + "/acme/ghcr.io/acme/app:1"
	if _, err := d.pullAs(t, ref, header); err == nil {
		t.Fatal("acme pulls before it is there")
	}
	answer, err := n.script(t, acmeUpstream.password, dropIn)
	must(t, err)
	answer.mustHave(t, "acme", "applied", dropIn)
	digest, err := d.pullAs(t, ref, header)
	must(t, err)
	if owner := d.owner(t, atDigest(ref, digest)); owner != "acme" || digest != i.digest {
		t.Errorf("acme has %s of %q", digest, owner)
	}

	path, err := berthBinary()
	must(t, err)
	check := []string{"--config", n.config(), "check", "organisations.d/acme.yaml"}
	_, err = run(t, n.dir, nil, path, check...)
	must(t, err)

	broken := dropIn + "surprise: 1\n"
	answer, err = n.script(t, acmeUpstream.password, broken)
	if err == nil {
		t.Error("berth reload is content with a broken drop-in")
	}
	answer.mustHave(t, "acme", "kept", broken)
	if _, err := run(t, n.dir, nil, path, check...); err == nil || !strings.Contains(err.Error(), "surprise") {
		t.Errorf("berth check: %v", err)
	}
	_, err = d.pullAs(t, ref, header)
	must(t, err)
}

// reloaded is the answer of berth reload.
type reloaded struct {
	Organisations []struct {
		Organisation, SHA256, State string
		Errors                      []string
	}
}

func (r reloaded) mustHave(t *testing.T, organisation, state, dropIn string) {
	t.Helper()
	sum := sha256.Sum256([]byte(dropIn))
	for _, o := range r.Organisations {
		if o.Organisation != organisation {
			continue
		}
		if o.State != state || o.SHA256 != hex.EncodeToString(sum[:]) || (state == "kept") != (len(o.Errors) > 0) {
			t.Errorf("berth reload says %+v, and the file is %x", o, sum)
		}
		return
	}
	t.Errorf("berth reload does not name %s: %+v", organisation, r)
}

// script runs the document's commands, with this node's folder and user in them.
func (n *node) script(t *testing.T, secret, dropIn string) (answer reloaded, err error) {
	t.Helper()
	text := block(t, "deliver")
	for _, r := range [][2]string{{"/etc/berth/organisations.d", filepath.Join(n.dir, "organisations.d")}, {"owner=berth ", "owner=root "}} {
		if !strings.Contains(text, r[0]) {
			t.Fatalf("there is no %q in the commands", r[0])
		}
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	path, err := berthBinary()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", `berth() { "$program" --config "$config" "$@"; }`+"\n"+text)
	cmd.Env = environment(n.dir, "program="+path, "config="+n.config(), "secret="+secret, "dropin="+dropIn)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if derr := json.Unmarshal(stdout.Bytes(), &answer); derr != nil {
		t.Fatalf("the commands say %q: %v, %v, %s", stdout.String(), derr, err, stderr.String())
	}
	return answer, err
}

// A control plane's own token: the document's commands make one that berth takes.
func TestPlatformOwnToken(t *testing.T) {
	n := newNode(t)
	out, err := run(t, n.dir, nil, "sh", "-euc", block(t, "token")+"echo $token $sha256")
	must(t, err)
	token, hash, _ := strings.Cut(strings.TrimSpace(out), " ")
	if len(token) != 32 || hash != hashOf(token) {
		t.Fatalf("the commands made %q", out)
	}
	i := pushOwn(t, n.acme, "team/token", "acme")
	if status := n.asks(t, i, login{"acme", token}); status != http.StatusUnauthorized {
		t.Errorf("before it is delivered: %d", status)
	}
	n.deliver(t, "acme", strings.Replace(n.acmeDropIn(), "tokens: [", "tokens: [{name: own, sha256: "+hash+"}, ", 1))
	n.awaitStatus(t, i, login{"acme", token}, http.StatusOK, second)
	if status := n.asks(t, i, n.as("acme")); status != http.StatusOK {
		t.Errorf("the token before: %d", status)
	}
	n.deliver(t, "acme", strings.Replace(n.acmeDropIn(), hashOf(callerToken("acme")), hash, 1))
	n.awaitStatus(t, i, n.as("acme"), http.StatusUnauthorized, second)
	if status := n.asks(t, i, login{"acme", token}); status != http.StatusOK {
		t.Errorf("the new token alone: %d", status)
	}
}

// How fast a change holds, as the table of the document has it. Nothing here is
// reloaded: the files are watched.
func TestPlatformBounds(t *testing.T) {
	n := newNode(t)
	i := pushOwn(t, n.acme, "team/bounds", "acme")
	acme := n.as("acme")
	if status := n.asks(t, i, acme); status != http.StatusOK {
		t.Fatalf("acme: %d", status)
	}
	secret := filepath.Join(n.dir, "organisations.d/acme/secret")

	replace(t, secret, "another")
	n.awaitStatus(t, i, acme, http.StatusForbidden, second)
	replace(t, secret, acmeUpstream.password)
	n.awaitStatus(t, i, acme, http.StatusOK, second)

	must(t, os.Remove(filepath.Join(n.dir, "organisations.d/acme.yaml")))
	n.awaitStatus(t, i, acme, http.StatusUnauthorized, second)
	n.deliver(t, "acme", n.acmeDropIn())
	n.awaitStatus(t, i, acme, http.StatusOK, second)

	n.acme.gate.say(http.StatusUnauthorized)
	n.awaitStatus(t, i, acme, http.StatusForbidden, accessTTL+second)
	// A refused credential is left alone for a minute, and a new one is tried at once.
	n.acme.gate.say(0)
	if status := n.asks(t, i, acme); status != http.StatusForbidden {
		t.Errorf("the refused credential: %d", status)
	}
}

// Who does not want to wait for a proof to end, ends it.
func TestPlatformPurge(t *testing.T) {
	n := newNode(t)
	i := pushOwn(t, n.acme, "team/purge", "acme")
	path, err := berthBinary()
	must(t, err)
	if status := n.asks(t, i, n.as("acme")); status != http.StatusOK {
		t.Fatalf("acme: %d", status)
	}
	n.acme.gate.say(http.StatusUnauthorized)
	if status := n.asks(t, i, n.as("acme")); status != http.StatusOK {
		t.Fatalf("with a proof of a moment ago: %d: this is no test", status)
	}
	_, err = run(t, n.dir, nil, path, "--config", n.config(), "purge", "--org", "acme")
	must(t, err)
	if status := n.asks(t, i, n.as("acme")); status != http.StatusForbidden {
		t.Errorf("after the purge: %d", status)
	}
}

// replace puts a file in the place of another, whole.
func replace(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.Rename(writeFile(t, path+".new", text), path))
}

// asks is one request for the manifest of an image.
func (n *node) asks(t *testing.T, i image, as login) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		"http://"+n.optional+"/v2/"+i.at.name+"/"+i.repo+"/manifests/"+i.digest, nil)
	must(t, err)
	req.SetBasicAuth(as.user, as.password)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	must(t, err)
	must(t, resp.Body.Close())
	return resp.StatusCode
}

// awaitStatus asks until the answer is this one. No request that was sent later
// than bound after the beginning may get another.
func (n *node) awaitStatus(t *testing.T, i image, as login, want int, bound time.Duration) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); ; <-tick.C {
		sent := time.Since(begun)
		status := n.asks(t, i, as)
		if status == want {
			t.Logf("%d after %v", status, sent)
			return
		}
		if sent > bound {
			t.Fatalf("%d, and not %d, %v later", status, want, sent)
		}
	}
}
