package isolation_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"berth/auth/caller"
	"berth/cache"
	"berth/internal/ocitest"
	"berth/internal/secret"
	"berth/oci"
	"berth/upstream"

	"berth/auth/credential"
	"berth/upstream/dialect"
)

// A child of TestDenialOutlivesSIGKILL finds its folder, and the registry, here.
const (
	childDir  = "BERTH_ISOLATION_CHILD"
	childURL  = "BERTH_ISOLATION_REGISTRY"
	childRepo = "BERTH_ISOLATION_REPO"
)

// live is the child: it asks once, says what came of it, and ends by SIGKILL.
func live(dir string) {
	err := refusedOnce(dir)
	fmt.Println(oci.ClassOf(err))
	if err == nil || !oci.ClassOf(err).Refuses() {
		fmt.Fprintln(os.Stderr, err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func refusedOnce(dir string) error {
	c, err := cache.New(cache.Options{Dir: filepath.Join(dir, "cache"), Now: func() time.Time { return time.Now().Add(time.Hour) }})
	if err != nil {
		return err
	}
	source, err := acmeAt(c, dir, os.Getenv(childURL))
	if err != nil {
		return err
	}
	_, err = source.Resolve(nobodyWaits(), os.Getenv(childRepo), "v1")
	return err
}

// acmeAt is the registry as acme sees it, through c.
func acmeAt(c *cache.Cache, dir, url string) (oci.Source, error) {
	key, err := credential.LoadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	w := &world{clock: &clock{}, log: &logBook{}}
	p := &place{name: "reg.example", url: url, kind: dialect.Generic, tokens: []string{url + "/token"}}
	line, err := upstream.New(w.options(p))
	if err != nil {
		return nil, err
	}
	creds, err := credential.NewTable(credential.TableOptions{Key: key, Entries: []credential.Entry{{
		Name: "main", Organisation: "acme", Registry: p.name, Origin: w.origin(p), Source: credential.Static("alice", secret.New("secret")),
	}}})
	if err != nil {
		return nil, err
	}
	n := &node{cache: c, lines: map[*place]*upstream.Registry{p: line}}
	return n.source(w, creds, caller.Caller{Organisation: "acme"}, p), nil
}

// rounds is how many processes are killed.
func rounds() int {
	if os.Getenv("BERTH_LONG") != "" {
		return 200
	}
	return 20
}

// A process proves, the next one is refused and killed the moment it has said
// so: the one after that serves nothing while the registry is in trouble.
func TestDenialOutlivesSIGKILL(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	reg := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer, Private: true, LiveRights: true})
	for i := range rounds() {
		repo := fmt.Sprintf("acme/app%d", i)
		dir := t.TempDir()
		reg.AddImage(repo, "v1", ocitest.Image{Layers: []int64{100}, Seed: uint64(i)})
		reg.AddUser("alice", "secret", repo)
		pullOnce := func(want bool, ahead time.Duration) {
			t.Helper()
			c, err := cache.New(cache.Options{Dir: filepath.Join(dir, "cache"), Now: func() time.Time { return time.Now().Add(ahead) }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			source, err := acmeAt(c, dir, reg.URL())
			if err != nil {
				t.Fatal(err)
			}
			r, err := source.Resolve(t.Context(), repo, "v1")
			if err == nil {
				var content *oci.Content
				if content, err = source.Open(t.Context(), oci.Object{Repo: repo, Kind: oci.Manifest, Digest: r.Digest}, oci.Range{}); err == nil {
					content.Close()
				}
			}
			if (err == nil) != want {
				t.Errorf("round %d: %v", i, err)
			}
		}
		broken := func(want bool, ahead time.Duration) {
			t.Helper()
			trouble := reg.Inject(ocitest.Match{}, 0, ocitest.Status(http.StatusServiceUnavailable, "Retry-After", "30"))
			pullOnce(want, ahead)
			trouble.Remove()
		}
		pullOnce(true, 0)
		broken(true, 30*time.Minute) // or the rest would show nothing
		reg.SetRights("alice")
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childDir+"="+dir, childURL+"="+reg.URL(), childRepo+"="+repo)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(out)
		if !said.Scan() || said.Text() != oci.Denied.String() {
			t.Fatalf("round %d: the child said %q", i, said.Text())
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the child was not killed")
		}
		broken(false, 2*time.Hour)
	}
}
