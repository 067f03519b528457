package upstream

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// expired is what ECR says to a password whose time is over.
func expired() ocitest.Fault {
	return ocitest.Problem(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again.")
}

// signedIn is a request that has a credential.
func signedIn(q ocitest.Request) bool { return q.Header.Get("Authorization") != "" }

// A registry that passes on what others answer says so about one repository, and that
// stops nothing else: neither an organisation's own account nor this node's, also where
// somebody has pulled from another repository of his own just before.
func TestBasicAccount_ExpiredInOneRepository(t *testing.T) {
	passedOn := func(q ocitest.Request) bool { return strings.HasPrefix(q.Repo, "denied/") }
	for organisation, class := range map[string]oci.Class{"acme": oci.Denied, "": oci.NoCredential} {
		for name, order := range map[string][]string{
			"a good one first":     {"team/app", "denied/app", "team/other", "team/app"},
			"the denied one first": {"denied/app", "team/app", "denied/app", "team/other"},
		} {
			t.Run(fmt.Sprint(class, ", ", name), func(t *testing.T) {
				up := basicRegistry(t, func(ocitest.Request) bool { return false })
				up.Inject(ocitest.Match{Where: passedOn}, 0, expired())
				src := over(t, up).As(as(organisation, "alice", "secret"))
				for _, repo := range order {
					switch err := pullTag(t.Context(), src, repo); {
					case strings.HasPrefix(repo, "denied/"):
						wantClass(t, err, class)
					case err != nil:
						t.Errorf("%s: %v", repo, err)
					}
				}
			})
		}
	}
}

// Whoever owns two repositories may have the one where this node's own account was taken
// last say the same as the other.
func TestBasicAccount_OfTheNodeSettledByNobodysRepository(t *testing.T) {
	for name, fault := range map[string]ocitest.Fault{
		"expired": expired(),
		"401":     ocitest.Problem(401, "UNAUTHORIZED", "no", "WWW-Authenticate", `Basic realm="registry.test"`),
	} {
		t.Run(name, func(t *testing.T) {
			up := basicRegistry(t, func(ocitest.Request) bool { return false })
			up.AddImage("denied/other", "v1", ocitest.Image{Layers: []int64{2000}})
			src := over(t, up).As(as("", "alice", "secret"))
			if err := pullTag(t.Context(), src, "denied/other"); err != nil {
				t.Fatal(err)
			}
			up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return strings.HasPrefix(q.Repo, "denied/") }}, 0, fault)
			wantClass(t, pullTag(t.Context(), src, "denied/app"), oci.NoCredential)
			if err := pullTag(t.Context(), src, "team/app"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Where it has expired, all of the registry says so, and it is left alone: wherever it was
// taken last, also by HEAD, which has no text.
func TestBasicAccount_ExpiredEverywhere(t *testing.T) {
	for _, how := range []string{"a manifest by GET", "by HEAD", "never taken"} {
		for _, ping := range []bool{true, false} { // whether /v2/ answers 401 to nobody
			t.Run(fmt.Sprint(how, ", a plain /v2/: ", ping), func(t *testing.T) {
				up := basicRegistry(t, func(ocitest.Request) bool { return false })
				if !ping {
					up.Inject(ocitest.Match{Kind: ocitest.Ping}, 0, ocitest.Status(200))
				}
				src := over(t, up).As(as("acme", "alice", "secret"))
				if how != "never taken" {
					if err := pullTag(t.Context(), src, "team/app"); err != nil {
						t.Fatal(err)
					}
				}
				if how == "by HEAD" {
					if _, err := src.Resolve(t.Context(), "team/app", "v1"); err != nil {
						t.Fatal(err)
					}
				}
				up.Inject(ocitest.Match{Where: signedIn}, 0, expired())
				before := up.Count(ocitest.Match{Where: signedIn})
				for range 3 {
					wantClass(t, pullTag(t.Context(), src, "team/other"), oci.Unauthorized)
				}
				if n := up.Count(ocitest.Match{Where: signedIn}) - before; n == 0 || n > 4 { // a HEAD, a GET, and both where it was taken
					t.Errorf("an expired password was sent %d times", n)
				}
			})
		}
	}
}

// The text that tells may never come. The no is heard all the same, and nothing is held
// against the account where it is not known to have expired.
func TestBasicAccount_ExpiredSaysAPlaceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := ocitest.NewMemoryNet()
		up := ocitest.New(t, ocitest.Options{Net: memory, Auth: ocitest.Basic, Private: true})
		up.AddUser("alice", "secret", "**")
		for _, repo := range []string{"own/a", "own/b", "team/app"} {
			up.AddImage(repo, "v1", ocitest.Image{Layers: []int64{2000}})
		}
		node, err := New(Options{
			Name: "registry.test", Origin: up.Origin(), AllowPrivate: loopback,
			Hosts: &limit.Hosts{Connections: 16, Rate: limit.Rate{PerSecond: 20, Burst: 500}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close()
		node.conns.dial = memory.DialContext
		src := node.As(as("acme", "alice", "secret"))
		if err := pullTag(t.Context(), src, "own/a"); err != nil {
			t.Fatal(err)
		}
		stalled := expired()
		stalled.Rate = 1 // byte a second
		up.Inject(ocitest.Match{Repo: "own/a"}, 0, stalled)
		up.Inject(ocitest.Match{Repo: "own/b"}, 0, expired())
		began := time.Now()
		wantClass(t, pullTag(t.Context(), src, "own/b"), oci.Denied)
		if took := time.Since(began); took > settleFor+time.Second {
			t.Errorf("it took %v", took)
		}
		if err := pullTag(t.Context(), src, "team/app"); err != nil {
			t.Error(err)
		}
	})
}
