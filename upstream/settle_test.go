package upstream

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"berth/internal/ocitest"
	"berth/oci"
)

// basicRegistry asks for Basic, and answers 401 to whatever denied says.
func basicRegistry(t *testing.T, denied func(ocitest.Request) bool) *ocitest.Registry {
	t.Helper()
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Basic, Private: true})
	up.AddUser("alice", "secret", "**")
	for _, repo := range []string{"team/app", "team/other", "denied/app"} {
		up.AddImage(repo, "v1", ocitest.Image{Layers: []int64{2000}})
	}
	up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Kind != ocitest.Ping && denied(q) }}, 0,
		ocitest.Problem(401, "UNAUTHORIZED", "access to the requested resource is not authorized", "WWW-Authenticate", `Basic realm="registry.test"`))
	return up
}

func pullTag(ctx context.Context, src oci.Source, repo string) error {
	d, err := src.Resolve(ctx, repo, "v1")
	if err != nil {
		return err
	}
	c, err := src.Open(ctx, oci.Object{Repo: repo, Kind: oci.Manifest, Digest: d.Digest}, oci.Range{})
	if err != nil {
		return err
	}
	c.Close()
	return nil
}

// A 401 to Basic may be about what was asked for, and then stops nothing else.
func TestBasicAccount_OneRefusalIsNotAll(t *testing.T) {
	inDenied := func(q ocitest.Request) bool { return strings.HasPrefix(q.Repo, "denied/") }
	for name, order := range map[string][]string{
		"a good one first":     {"team/app", "denied/app", "team/other", "team/app"},
		"the denied one first": {"denied/app", "team/app", "denied/app", "team/other"},
		"denied many times":    {"team/app", "denied/app", "denied/app", "denied/app", "team/other"},
	} {
		up := basicRegistry(t, inDenied)
		src := over(t, up).As(as("acme", "alice", "secret"))
		for _, repo := range order {
			err := pullTag(t.Context(), src, repo)
			if !strings.HasPrefix(repo, "denied/") {
				if err != nil {
					t.Errorf("%s: %s: %v", name, repo, err)
				}
				continue
			}
			if e := classed(t, err, oci.Denied); strings.Contains(e.Message, "renew") {
				t.Errorf("%s: %s", name, e.Message)
			}
		}
	}
}

// ECR answers so for lists that an account may not have.
func TestBasicAccount_RefusedListIsAboutLists(t *testing.T) {
	for name, kind := range map[string]oci.ListKind{"tags": oci.Tags, "referrers": oci.Referrers} {
		up := basicRegistry(t, func(q ocitest.Request) bool { return q.Kind == ocitest.Tags || q.Kind == ocitest.Referrers })
		src := over(t, up).As(as("acme", "alice", "secret"))
		for range 2 {
			_, err := src.List(t.Context(), oci.ListRequest{Kind: kind, Repo: "team/app", Digest: oci.DigestOf([]byte("subject"))})
			wantClass(t, err, oci.Denied)
			if err := pullTag(t.Context(), src, "team/app"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A right that is taken away from one repository leaves the others.
func TestBasicAccount_RightTakenAway(t *testing.T) {
	gone := false
	up := basicRegistry(t, func(q ocitest.Request) bool { return gone && q.Repo == "team/app" })
	src := over(t, up).As(as("acme", "alice", "secret"))
	if err := pullTag(t.Context(), src, "team/app"); err != nil {
		t.Fatal(err)
	}
	gone = true
	wantClass(t, pullTag(t.Context(), src, "team/app"), oci.Denied)
	if err := pullTag(t.Context(), src, "team/other"); err != nil {
		t.Error(err)
	}
}

// An account that is no good anywhere is left alone after at most two requests.
func TestBasicAccount_NoLongerGood(t *testing.T) {
	up := basicRegistry(t, func(ocitest.Request) bool { return false })
	src := over(t, up).As(as("acme", "alice", "secret"))
	if err := pullTag(t.Context(), src, "team/app"); err != nil {
		t.Fatal(err)
	}
	up.SetPassword("alice", "another")
	up.Forget()
	for range 5 {
		wantClass(t, pullTag(t.Context(), src, "team/other"), oci.Unauthorized)
		wantClass(t, pullTag(t.Context(), src, "team/app"), oci.Unauthorized)
	}
	if n := up.Count(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}); n > 2 {
		t.Errorf("a refused password was sent %d times", n)
	}
}

// Where the account was taken last, a page, trouble or a limit may answer now: that says
// nothing about it. /v2/ is asked then, and where that is no plainer nothing is held
// against the account, nor is it called good.
func TestBasicAccount_SettledByAPlainAnswerOnly(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{
		"a login page": page(200), "a page with 403": page(403), "a way to a login": ocitest.Status(302, "Location", "https://login.example/"),
		"500": ocitest.Status(500), "503": ocitest.Status(503), "429": ocitest.Status(429), "400": ocitest.Status(400),
	} {
		for _, ping := range []bool{true, false} { // whether /v2/ answers plainly
			t.Run(fmt.Sprint(name, ", a plain /v2/: ", ping), func(t *testing.T) {
				up := basicRegistry(t, func(ocitest.Request) bool { return false })
				src := over(t, up).As(as("acme", "alice", "secret"))
				if err := pullTag(t.Context(), src, "team/app"); err != nil {
					t.Fatal(err)
				}
				up.SetPassword("alice", "another")
				up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool {
					return q.Repo == "team/app" || q.Kind == ocitest.Ping && !ping
				}}, 0, fault)
				up.Forget()
				want := oci.Denied
				if ping {
					want = oci.Unauthorized
				}
				for range 3 {
					wantClass(t, pullTag(t.Context(), src, "team/other"), want)
				}
				if n := up.Count(ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}); ping && n > 3 {
					t.Errorf("a refused password was sent %d times", n)
				}
			})
		}
	}
}

// A page is no sign that an account is taken: it does not end what is held against it.
func TestBasicAccount_PageIsNoSuccess(t *testing.T) {
	up := basicRegistry(t, func(ocitest.Request) bool { return false })
	r := over(t, up)
	src := r.As(as("acme", "alice", "secret"))
	up.Inject(ocitest.Match{Repo: "team/app"}, 0, page(200))
	if err := pullTag(t.Context(), src, "team/app"); err == nil {
		t.Fatal("a page was an image")
	}
	cred, err := as("acme", "alice", "secret").Credential(t.Context(), "team/app")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.settlement.taken.Get(cred.Fingerprint); ok {
		t.Error("the account counts as taken where a page was the answer")
	}
}

// What refuses a HEAD may answer a GET.
func TestManifestHead_FailsWhereGetWorks(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{
		"400": ocitest.Status(400), "401": ocitest.Status(401), "402": ocitest.Status(402), "403": ocitest.Status(403), "405": ocitest.Status(405),
		"406": ocitest.Status(406), "418": ocitest.Status(418), "500": ocitest.Status(500), "501": ocitest.Status(501), "502": ocitest.Status(502),
		"522": ocitest.Status(522), "204": ocitest.Status(204), "a page": page(200), "a broken connection": ocitest.Drop(),
	} {
		for auth, kind := range map[string]ocitest.Auth{"none": ocitest.NoAuth, "basic": ocitest.Basic, "bearer": ocitest.Bearer} {
			up := ocitest.New(t, ocitest.Options{Auth: kind})
			up.AddUser("alice", "secret", "acme/app")
			img := up.AddImage("acme/app", "v1", ocitest.Image{Layers: []int64{2000}})
			up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead}, 0, fault)
			src := over(t, up).As(as("acme", "alice", "secret"))
			d, err := src.Resolve(t.Context(), "acme/app", "v1")
			if err != nil || d.Digest != img.Digest {
				t.Errorf("%s, %s: %v %v", name, auth, d, err)
			}
			if _, err := src.Stat(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: img.Digest}); err != nil {
				t.Errorf("%s, %s: by digest: %v", name, auth, err)
			}
			if n := up.Count(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}); n != 2 {
				t.Errorf("%s, %s: %d GETs", name, auth, n)
			}
		}
	}
}

// A limit holds for both, and whoever asks for a pause gets it.
func TestManifestHead_LimitedOrToldToWait(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{
		"429": ocitest.Status(429, "Retry-After", "60"), "503": ocitest.Status(503, "Retry-After", "60"), "500": ocitest.Status(500, "Retry-After", "30"),
	} {
		up := ocitest.New(t, ocitest.Options{})
		up.AddImage("acme/app", "v1", ocitest.Image{})
		up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodHead}, 0, fault)
		if _, err := over(t, up).As(Identity{}).Resolve(t.Context(), "acme/app", "v1"); err == nil {
			t.Errorf("%s: no error", name)
		}
		if n := up.Count(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}); n != 0 {
			t.Errorf("%s: %d GETs", name, n)
		}
	}
}

// Gateways compress what is small although nobody asked for it: tokens, and errors.
func TestGzip_TokensAndErrors(t *testing.T) {
	up := ocitest.New(t, ocitest.Options{Auth: ocitest.Bearer})
	up.AddUser("alice", "secret", "acme/app")
	up.AddImage("acme/app", "v1", ocitest.Image{})
	up.Inject(ocitest.Match{Kind: ocitest.Token}, 0, ocitest.Fault{Gzip: true})
	src := over(t, up).As(as("acme", "alice", "secret"))
	if err := pullTag(t.Context(), src, "acme/app"); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		status     int
		text, says string
		want       oci.Class
	}{
		{404, `{"errors":[{"code":"NAME_UNKNOWN","message":"x"}]}`, "knows no repository", oci.NotFound},
		{405, `{"errors":[{"code":"DENIED","message":"disabled"}]}`, "denied account", oci.Denied},
		{403, `{"errors":[{"code":"DENIED","message":"permission_denied: read_package"}]}`, "read:packages", oci.Denied},
	} {
		up.Inject(ocitest.Match{Kind: ocitest.Manifest, Method: http.MethodGet}, 1, ocitest.Fault{
			Status: test.status, Body: gzipped(t, []byte(test.text)), Header: http.Header{"Content-Encoding": {"x-gzip"}},
		})
		_, err := src.Open(t.Context(), oci.Object{Repo: "acme/app", Kind: oci.Manifest, Digest: oci.DigestOf([]byte("x"))}, oci.Range{})
		if e := classed(t, err, test.want); !strings.Contains(e.Message, test.says) {
			t.Errorf("%d: %s", test.status, e.Message)
		}
	}
}

// Thirty repositories, one after the other, and a dead password are not thirty failed
// logins: accounts are locked for less.
func TestBasicAccount_DeadPasswordInManyRepositories(t *testing.T) {
	var dead atomic.Bool
	up := basicRegistry(t, func(ocitest.Request) bool { return dead.Load() })
	src := over(t, up).As(as("acme", "alice", "secret"))
	if err := pullTag(t.Context(), src, "team/app"); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	logins := ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}
	before := up.Count(logins)
	for i := range 30 {
		classed(t, pullTag(t.Context(), src, fmt.Sprint("team/r", i)), oci.Unauthorized)
	}
	if n := up.Count(logins) - before; n == 0 || n > 4 { // a HEAD, the GET that reads why, and where it was taken before
		t.Errorf("%d failed logins", n)
	}
}

// The same at once: one finds out, or a few where it was taken a moment ago, and the others
// hear what came of it.
func TestBasicAccount_DeadPasswordInManyRepositoriesAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		before bool
		most   int
	}{
		"taken a moment ago": {true, 2*4 + 1}, // each a HEAD and a GET, and where it was taken before
		"never taken":        {false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			up := basicRegistry(t, func(ocitest.Request) bool { return false })
			src := over(t, up).As(as("acme", "alice", "secret"))
			if c.before {
				if err := pullTag(t.Context(), src, "team/app"); err != nil {
					t.Fatal(err)
				}
			}
			up.SetPassword("alice", "another")
			logins := ocitest.Match{Where: func(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }}
			already := up.Count(logins)
			var all sync.WaitGroup
			for i := range 30 {
				all.Go(func() { wantClass(t, pullTag(t.Context(), src, fmt.Sprint("team/r", i)), oci.Unauthorized) })
			}
			all.Wait()
			if n := up.Count(logins) - already; n == 0 || n > c.most {
				t.Errorf("%d failed logins", n)
			}
		})
	}
}
