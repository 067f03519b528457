package upstream

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"berth/internal/limit"
	"berth/internal/ocitest"
	"berth/oci"
)

// Where an account was taken last may be a repository of its owner's own, which hangs when
// he likes. The registry's no to another repository is heard all the same, however many
// questions meet one at a time.
func TestBasicAccount_SettledWhereTheLastPlaceHangs(t *testing.T) {
	for _, ping := range []bool{true, false} { // whether /v2/ answers 401 to nobody
		synctest.Test(t, func(t *testing.T) {
			memory := ocitest.NewMemoryNet()
			up := ocitest.New(t, ocitest.Options{Net: memory, Auth: ocitest.Basic, Private: true})
			up.AddUser("alice", "secret", "own/**", "team/a", "team/b", "team/c")
			up.AddUser("bob", "secret", "team/**")
			img := up.AddImage("own/slow", "v1", ocitest.Image{Layers: []int64{2000}})
			node, err := New(Options{
				Name: "registry.test", Origin: up.Origin(), AllowPrivate: loopback,
				Hosts: &limit.Hosts{Connections: 16, Rate: limit.Rate{PerSecond: 20, Burst: 500}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer node.Close()
			node.conns.dial = memory.DialContext
			if !ping {
				up.Inject(ocitest.Match{Kind: ocitest.Ping}, 0, ocitest.Status(200))
			}
			alice, bob := node.As(as("acme", "alice", "secret")), node.As(as("globex", "bob", "secret"))
			if err := pullTag(t.Context(), alice, "own/slow"); err != nil {
				t.Fatal(err)
			}
			up.Inject(ocitest.Match{Repo: "own/slow"}, 0, ocitest.Silence())
			up.Inject(ocitest.Match{Where: func(q ocitest.Request) bool { return strings.HasPrefix(q.Repo, "team/") }}, 0,
				ocitest.Problem(401, "UNAUTHORIZED", "access to the requested resource is not authorized", "WWW-Authenticate", `Basic realm="registry.test"`))
			var all sync.WaitGroup
			const most = 2*(2*time.Second+settleFor) + time.Second // a HEAD and a GET, each after others' trials
			ask := func(src oci.Source, repo string, most time.Duration) {
				all.Go(func() {
					began := time.Now()
					_, err := src.Stat(t.Context(), oci.Object{Repo: repo, Kind: oci.Manifest, Digest: img.Digest})
					if took := time.Since(began); !oci.ClassOf(err).Refuses() || took > most {
						t.Errorf("plain /v2/ %v: %s: after %v: %v", ping, repo, took, err)
					}
				})
			}
			for i := range 6 {
				ask(alice, fmt.Sprint("team/r", i), most)
			}
			time.Sleep(time.Second)
			ask(alice, "team/a", most)
			ask(bob, "team/b", time.Second) // nobody else's account keeps him waiting
			all.Wait()
		})
	}
}
